import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jsjobs.model.batch import BatchRecord, BatchRuns, BatchStatus, ids_of, runs_of
from jsjobs.model.errors import InvalidBatch, InvalidItem, Reason
from jsjobs.model.job import Status, utc_now

SEQUENCES = st.integers(min_value=1, max_value=2**53)
PLAIN = st.builds(lambda priority, sequence: f"{priority}-{sequence}", st.sampled_from(["high", "low"]), SEQUENCES)
GIVEN = st.from_regex(r"(at|replay)-[A-Za-z0-9_-]{1,12}", fullmatch=True)
RUNS = st.builds(
    lambda begin, count: [f"low-{begin + offset}" for offset in range(count)], SEQUENCES, st.integers(0, 30)
)


@given(st.lists(st.one_of(RUNS, st.lists(st.one_of(PLAIN, GIVEN), max_size=3)), max_size=8))
def test_runs_give_the_same_ids_in_the_same_order(lists: list[list[str]]) -> None:
    ids = [job_id for some in lists for job_id in some]
    runs = runs_of(ids)
    assert list(ids_of(runs)) == ids
    assert list(ids_of(BatchRuns(runs=tuple(runs)).runs)) == ids


def test_neighbours_are_put_together() -> None:
    ids = ["low-9", "low-10", "low-11", "high-12", "low-12", "low-14", "low-14", "at-1", "at-x-2"]
    assert runs_of(ids) == ["low-9:3", "high-12", "low-12", "low-14", "low-14", "at-1", "at-x-2"]
    assert len(runs_of(f"normal-{1795318823879006 + n}" for n in range(100_000))) == 1
    assert runs_of([]) == []


@pytest.mark.parametrize(
    "run", ["", "low", "low-1:0", "low-1:1000000000", "low-1\n", "low-1:2:3", "low-1 ", "*-1", "at-x:5", "at-x1:5"]
)
def test_what_is_no_run_is_refused(run: str) -> None:
    with pytest.raises(ValidationError):
        BatchRuns(runs=(run,))


def test_a_record_of_impossible_size_is_refused() -> None:
    for wrong in ({"total": -1}, {"total": 10**12}, {"parts": 0}, {"parts": 10**9}):
        with pytest.raises(ValidationError):
            BatchRecord.model_validate({"batch_id": "b", "created_at": utc_now(), "total": 1, "runs": (), **wrong})


def test_what_has_ended() -> None:
    counts = dict.fromkeys(Status, 1)
    status = BatchStatus(batch_id="b", created_at=utc_now(), total=7, counts=counts, expired=2, ids=())
    assert status.ended == 5


def test_an_invalid_batch_lists_all_its_items() -> None:
    items = [InvalidItem(2, Reason.VALIDATION, "no good"), InvalidItem(0, Reason.TIMEOUT, "neither")]
    error = InvalidBatch(items, 3)
    assert (error.reason, error.errors) == (Reason.VALIDATION, {0: items[1], 2: items[0]})
    assert str(error) == "Validation: 2 of 3 items are invalid: item 0: neither; item 2: no good"
