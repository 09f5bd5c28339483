"""How a look is drawn: what fits, what is cut, and that nothing in it reaches the terminal as a command."""

import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.cells import cell_len
from rich.console import Console

from jsjobs.cli.top.poller import OpenLetters, Seen
from jsjobs.cli.top.poller import Table as LetterTable
from jsjobs.cli.top.view import Table, View, lines_of, picture, running_shown
from jsjobs.jetstream.monitoring.overview import Overview, PartitionLook, PriorityLook, ShardLook
from jsjobs.jetstream.protocol.names import Generation, Partition, Shard
from jsjobs.model.job import Priority, Status
from jsjobs.model.lanes import Lane
from jsjobs.model.queues import RunningJob

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
REACHED = OpenLetters(LetterTable.REACHED, 3)
RUNS = RunningJob(
    job_id="critical-1795318823879006",
    priority=Priority.CRITICAL,
    lane=Lane.ORDERED,
    consumer="critical-1x64-63",
    status=Status.PROCESSING,
    type="email.send",
    entity="customer-42",
    tenant="acme",
    attempt=1,
    max_attempts=3,
    worker="host-1-abcdef",
    since=NOON - timedelta(minutes=5),
    next_attempt_at=None,
)


def shard(number: int, generation: str = "1x64", **given: object) -> ShardLook:
    known = ShardLook(
        shard=Shard(Priority.HIGH, Generation.parse(generation), number),
        is_next=False,
        waiting=0,
        running=0,
        redelivered=0,
        paused=False,
        paused_until=None,
        has_worker=True,
        deliveries=0,
        last_delivered=0,
        created_at=NOON,
        seen_at=NOON,
    )
    return replace(known, **given)


def partition(number: int, **given: object) -> PartitionLook:
    known = PartitionLook(
        partition=Partition(Priority.HIGH, number),
        waiting=0,
        running=0,
        redelivered=0,
        paused=False,
        paused_until=None,
        has_worker=True,
        deliveries=0,
        last_delivered=0,
        created_at=NOON,
        seen_at=NOON,
    )
    return replace(known, **given)


def look(priority: Priority, **given: object) -> PriorityLook:
    known = PriorityLook(
        priority=priority,
        waiting=1_234_567,
        running=64,
        redelivered=3,
        oldest_waiting_seconds=7300,
        queues=(),
        shards=tuple(shard(number) for number in range(64)),
        partitions=tuple(partition(number) for number in range(4)),
        submitted_per_second=12_345.6,
        finished_per_second=0.25,
    )
    return replace(known, **given)


def seen(*jobs: RunningJob, hidden: int = 0, looks: tuple[PriorityLook, ...] | None = None) -> Seen:
    priorities = tuple(look(priority) for priority in Priority) if looks is None else looks
    return Seen(Overview("jobs", NOON, priorities, jobs, hidden, 0), REACHED)


def drawn(what: Seen, view: View | None = None, width: int = 80, height: int = 24) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    lines = console.render_lines(picture(what, view or View("nats://127.0.0.1:4222  every 1s"), width, height))
    text = ["".join(segment.text for segment in line) for line in lines]
    assert len(text) == height
    assert all(cell_len(line) <= width for line in text)
    return text


def test_numbers_have_separators_and_ages_are_humane() -> None:
    row = drawn(seen(), width=100)[3].split()
    assert row[:8] == ["critical", "1,234,567", "2h", "64", "3", "12,346", "0.2", "64"]
    assert row[8:] == ["shards,", "4", "partitions"]
    assert drawn(seen())[3].rstrip().endswith("  64 shards, 4 …")


@pytest.mark.parametrize("width", [80, 140])
@pytest.mark.parametrize("height", [24, 40])
def test_as_many_running_jobs_as_fit_and_a_word_of_the_others(width: int, height: int) -> None:
    limit = running_shown(height)
    what = seen(*[RUNS] * limit, hidden=256 - limit)
    text = drawn(what, width=width, height=height)
    assert sum("customer-42" in line for line in text) == limit
    assert limit == height - 12
    assert text[-2].strip() == f"… and {256 - limit} more running"
    assert text[-1].startswith("q quit")


def test_the_last_one_takes_the_place_of_a_word_of_it() -> None:
    limit = running_shown(24)
    text = drawn(seen(*[RUNS] * (limit + 1)))
    assert sum("customer-42" in line for line in text) == limit + 1
    assert "more running" in drawn(seen(*[RUNS] * limit, hidden=1))[-2]


def test_the_shards_that_fit_and_the_fullest_first_when_asked() -> None:
    full = look(Priority.HIGH, shards=(*(shard(number) for number in range(63)), shard(63, waiting=9_999)))
    view = View("x", Table.SHARDS)
    text = drawn(seen(looks=(full,)), view)
    assert any("high-1x64-0 " in line for line in text)
    assert not any("high-1x64-63" in line for line in text)
    assert "more shards" in text[-2]
    view.press("o")
    first = next(line for line in drawn(seen(looks=(full,)), view) if "high-" in line)
    assert first.split()[:2] == ["high-1x64-63", "9,999"]
    view.press("s")
    assert any("nothing is running" in line for line in drawn(seen(looks=(full,)), view))


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("height", [4, 10, 24])
def test_any_terminal_will_do(width: int, height: int) -> None:
    troubled = look(
        Priority.HIGH, shards=tuple(shard(number, paused=number < 9, has_worker=False) for number in range(64))
    )
    for view in (View("x", table) for table in Table):
        drawn(seen(*[RUNS] * 5, looks=(troubled,) * 4), view, width, height)
        drawn(Seen(None, REACHED, NOON, connected=False, reason="x" * 200), view, width, height)


def test_what_keeps_a_shard_from_running_is_said() -> None:
    shards = (shard(0, paused=True), shard(1, has_worker=False), shard(2), shard(3))
    text = drawn(seen(looks=(look(Priority.HIGH, shards=shards),)))
    assert text[3].rstrip().endswith("  1/8 paused, 1…")
    wide = drawn(seen(looks=(look(Priority.HIGH, shards=shards),)), width=100)
    assert wide[3].rstrip().endswith("  1/8 paused, 1/8 no worker")
    alone = look(Priority.HIGH, shards=(shard(0, has_worker=False),), partitions=(partition(0, has_worker=False),))
    assert drawn(seen(looks=(alone,)))[3].rstrip().endswith("  no worker")
    assert drawn(seen(looks=(look(Priority.HIGH, shards=()),)))[3].rstrip().endswith("  no shards")
    assert drawn(seen(looks=(look(Priority.HIGH, partitions=()),)))[3].rstrip().endswith("  no partitions")


def test_what_waits_for_its_retry_or_may_do_so_is_said() -> None:
    partitions = (partition(0, running=4_900, retrying=200, unread=4_800), partition(1), partition(2, retrying=1))
    high = look(Priority.HIGH, partitions=partitions, retrying=201)
    wide = drawn(seen(looks=(high,)), width=120)
    assert wide[3].rstrip().endswith("  201 retrying, 4,800 may be retrying")
    rows = [
        line.split() for line in drawn(seen(looks=(high,)), View("x", Table.PARTITIONS), width=120) if "high-" in line
    ]
    assert [row[:3] for row in rows] == [
        [f"high-parallel-{number}", "0", count] for number, count in enumerate(("4,900", "0", "0"))
    ]
    assert rows[0][5:] == ["200", "retrying,", "4,800", "may", "be", "retrying"]
    assert rows[2][5:] == ["1", "retrying"]


def test_the_job_that_holds_a_shard_is_named() -> None:
    due = replace(RUNS, status=Status.QUEUED, attempt=2, next_attempt_at=NOON + timedelta(seconds=90))
    shards = (
        shard(0, running=1, held_by=RUNS),
        shard(1, retrying=1, held_by=due),
        shard(2, retrying=1, held_by=due, paused=True),
        shard(3, is_next=True),
    )
    text = drawn(seen(looks=(look(Priority.HIGH, shards=shards),)), View("x", Table.SHARDS), width=140)
    states = [line.partition("  -  ")[2].strip() for line in text if "high-1x64-" in line]
    assert states == [
        f"{RUNS.job_id} email.send 5m",
        f"{RUNS.job_id} email.send retry in 1m",
        f"paused, {RUNS.job_id} email.send retry in 1m",
        "next",
    ]


def test_keys_choose_the_table_and_the_same_key_again_the_running_jobs() -> None:
    view = View("x")
    assert view.keys == "q quit   s shards   p partitions"
    view.press("p")
    assert view.keys == "q quit   s shards   p running jobs   o order"
    view.press("s")
    assert view.keys == "q quit   s running jobs   p partitions   o order"
    view.press("s")
    assert view.table is Table.RUNNING


def test_a_change_of_the_shard_count_is_said() -> None:
    shards = (
        shard(0, "1x1", waiting=1200, running=1),
        shard(0, "2x2", is_next=True, waiting=300),
        shard(1, "2x2", is_next=True),
    )
    text = drawn(seen(looks=(look(Priority.HIGH, shards=shards, waiting=1500, running=1),)))
    assert text[4].rstrip() == "high: 1 to 2 shards; 1,201 jobs to drain from 1x1, 300 wait in 2x2"
    drained = (shard(0, "1x1"), *shards[1:])
    text = drawn(seen(looks=(look(Priority.HIGH, shards=drained, waiting=300, running=0),)))
    assert text[4].rstrip() == "high: 1 to 2 shards; the old ones are empty, 300 wait for streams apply"


def test_a_job_between_two_attempts() -> None:
    due = replace(RUNS, status=Status.QUEUED, attempt=2, next_attempt_at=NOON + timedelta(seconds=90))
    over = replace(due, next_attempt_at=NOON - timedelta(seconds=1))
    begins = replace(RUNS, status=Status.QUEUED, attempt=0)
    snoozes = replace(begins, next_attempt_at=due.next_attempt_at, snoozed_until=due.next_attempt_at)
    text = drawn(seen(due, over, begins, snoozes, RUNS))
    told = [line.split("9006")[1].split("email")[0].split() for line in text if "email" in line]
    assert told == [
        ["retry", "in", "1m", "2/3"],
        ["retry", "due", "2/3"],
        ["begins", "5m", "0/3"],
        ["again", "in", "1m", "0/3"],
        ["5m", "1/3"],
    ]


@pytest.mark.parametrize(
    ("connected", "text"), [(False, "disconnected since "), (True, "no answer since ")], ids=["away", "mute"]
)
def test_an_outage_is_said_above_what_was_seen_last(connected: bool, text: str) -> None:
    failed = replace(seen(RUNS), failing_since=NOON, connected=connected, reason="the connection is lost")
    lines = drawn(failed)
    assert lines[1].startswith(text)
    assert lines[1].rstrip().endswith(": the connection is lost")
    assert any("customer-42" in line for line in lines)


HOSTILE = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\n\r\x9b\u202eevil\ud800"


def test_hostile_names_are_shown_harmlessly() -> None:
    job = replace(RUNS, job_id=HOSTILE, type=HOSTILE, entity=HOSTILE, tenant=HOSTILE, worker=HOSTILE)
    what = seen(job)
    what = replace(what, reason=HOSTILE, failing_since=NOON)
    for width in (80, 300):
        text = "\n".join(drawn(what, width=width))
        assert not set(text) & set("\x1b\x07\r\x9b\u202e\ud800")
        assert "[red]x[/red]" in text
    console = Console(file=io.StringIO(), width=240)
    console.print(lines_of(seen(job)))
    console.print(lines_of(what))
    assert isinstance(console.file, io.StringIO)
    assert not set(console.file.getvalue()) & set("\x1b\x07\r\x9b\u202e\ud800")


@pytest.mark.parametrize(
    ("letters", "words"),
    [
        (OpenLetters(LetterTable.NONE), "no database"),
        (OpenLetters(LetterTable.ASKED), "asking Postgres"),
        (OpenLetters(LetterTable.REACHED, 1_000), "1,000 open in Postgres"),
        (OpenLetters(LetterTable.UNREACHABLE), "Postgres unreachable"),
        (OpenLetters(LetterTable.MISSING), "Postgres not migrated"),
    ],
)
def test_letters_are_told_in_a_word(letters: OpenLetters, words: str) -> None:
    assert any(line.rstrip().endswith(f"0 pending, {words}") for line in drawn(replace(seen(), letters=letters)))
