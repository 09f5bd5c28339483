"""The states of a delivery, and that docs/settlement.md shows them as they are."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Names
from jsjobs.worker.job_run import JobRun
from jsjobs.worker.run_state import ENDED_BY, MOVES, State, Stop

DOCS = Path(__file__).parents[2] / "docs" / "settlement.md"
COLUMNS = (Stop.RELEASE, Stop.TIMEOUT, Stop.CANCEL, Stop.LOST)


def rows(heading: str) -> dict[str, list[str]]:
    """The rows of the table whose header begins with these words, by their first cell."""
    lines = iter(DOCS.read_text("utf-8").splitlines())
    next(line for line in lines if line.startswith(heading))
    next(lines)
    found = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *others = (cell.strip() for cell in line.strip("|").split("|"))
        found[first.strip("`")] = others
    return found


def test_the_page_shows_every_move() -> None:
    told = rows("| state | what happens")
    assert set(told) == set(State)
    for state, (_, after) in told.items():
        assert {name.strip("` ") for name in after.split(",") if name} == set(MOVES[State(state)])


def test_the_page_shows_which_request_ends_which_state() -> None:
    told = {
        State(state): {stop for stop, cell in zip(COLUMNS, cells, strict=True) if cell == "ends"}
        for state, cells in rows("| state | the worker stops").items()
    }
    assert told == ENDED_BY


def test_every_state_is_reached_and_ends() -> None:
    reached = {State.CLAIMING}.union(*MOVES.values())
    assert reached == set(State)
    assert all(State.OVER in after for state, after in MOVES.items() if state is not State.OVER)
    assert not MOVES[State.OVER]
    # Where nothing is waited for and no handler runs, no request can end anything.
    assert set(ENDED_BY) == {State.HELD, State.SNOOZED, State.WAITING, State.RUNNING}


@pytest.fixture
def run() -> JobRun:
    nowhere = cast(Connection, None)  # nothing is sent
    reply = b"$JS.ACK.JOBS_NORMAL.normal-0.1.7.1.1700000000000000000.0"
    delivery = Delivery(nowhere, b"jobs.work.critical.1x4.3.email.send", reply, b"", b"1")
    return JobRun(delivery, delivery.job(Names("jobs")), None, None, None)


def moved(run: JobRun, *states: State) -> JobRun:
    for state in states:
        run.to(state)
    return run


ON_THE_WAY: dict[State, tuple[State, ...]] = {
    State.CLAIMING: (),
    State.HELD: (State.HELD,),
    State.SNOOZED: (State.SNOOZED,),
    State.WAITING: (State.WAITING,),
    State.STARTING: (State.STARTING,),
    State.RUNNING: (State.STARTING, State.RUNNING),
    State.SETTLING: (State.STARTING, State.RUNNING, State.SETTLING),
}


@pytest.mark.parametrize("state", ON_THE_WAY)
def test_no_other_move_is_made(state: State, run: JobRun) -> None:
    moved(run, *ON_THE_WAY[state])
    for other in set(State) - MOVES[state]:
        with pytest.raises(AssertionError, match=f"from {state} to {other}"):
            run.to(other)
    assert run.state is state


REQUESTS: dict[Stop, Callable[[JobRun], object]] = {
    Stop.RELEASE: JobRun.release,
    Stop.CANCEL: JobRun.cancel,
    Stop.LOST: lambda run: run.lose("it is another's"),
}


@pytest.mark.parametrize("state", [State.HELD, State.SNOOZED, State.WAITING])
@pytest.mark.parametrize("reason", REQUESTS)
async def test_a_request_ends_what_is_waited_for_or_is_noted(state: State, reason: Stop, run: JobRun) -> None:
    until = asyncio.get_running_loop().create_future()
    run.to(state, until)
    REQUESTS[reason](run)
    assert until.cancelled() is (reason in ENDED_BY[state])
    assert run.asked_early() is (Stop.CANCEL if reason is Stop.CANCEL else Stop.RELEASE)


@pytest.mark.parametrize("state", [State.CLAIMING, State.STARTING, State.SETTLING])
@pytest.mark.parametrize("reason", REQUESTS)
def test_a_request_is_noted_where_nothing_is_waited_for(state: State, reason: Stop, run: JobRun) -> None:
    moved(run, *ON_THE_WAY[state])
    REQUESTS[reason](run)
    assert run.state is state
    assert run.asked_early() is (Stop.CANCEL if reason is Stop.CANCEL else Stop.RELEASE)


async def test_a_run_that_is_over_tells_whoever_waits_before_or_after(run: JobRun) -> None:
    before = run.ended
    assert not before.is_set()
    run.end()
    assert before.is_set()
    assert run.state is State.OVER
    assert run.ended.is_set()
