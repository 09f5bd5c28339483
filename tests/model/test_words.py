import pytest

from jsjobs.model.words import things


@pytest.mark.parametrize(
    ("count", "what", "text"),
    [
        (0, "job", "0 jobs"),
        (1, "job", "1 job"),
        (2, "shard", "2 shards"),
        (2000, "letter", "2,000 letters"),
        (1, "process", "1 process"),
        (2, "process", "2 processes"),
    ],
)
def test_a_number_and_its_word_agree(count: int, what: str, text: str) -> None:
    assert things(count, what) == text
