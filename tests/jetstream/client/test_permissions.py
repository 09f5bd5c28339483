import pytest

from jsjobs.jetstream.client.permissions import refusal_in


@pytest.mark.parametrize(
    ("error", "is_publish", "subject"),
    [
        ("""'Permissions Violation for Publish to "Foo.Bar"'""", True, b"Foo.Bar"),
        ("""'Permissions Violation for Subscription to "q.w"'""", False, b"q.w"),
        ("""'Permissions Violation for Subscription to "q.w" using queue "grp"'""", False, b"q.w"),
    ],
)
def test_what_the_server_refuses_for_want_of_a_right(error: str, is_publish: bool, subject: bytes) -> None:
    refusal = refusal_in(error)
    assert (refusal.is_publish, refusal.subject, refusal.text) == (is_publish, subject, error.strip("'"))


@pytest.mark.parametrize("error", ["'Authorization Violation'", "'Stale Connection'", "'permissions violation'", ""])
def test_other_errors_are_no_refusals(error: str) -> None:
    assert refusal_in(error) is None
