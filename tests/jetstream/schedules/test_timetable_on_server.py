"""What the model says of timetables, asked of the real nats-server."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import Phase, given, settings
from nats.aio.client import Client
from nats.aio.msg import Msg

from cron_texts import cron_texts
from facts import eventually
from go_cron import BOUNDS
from jsjobs.model.errors import JobError
from jsjobs.model.timetable import Timetable

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata"]
INVALID_PATTERN, INVALID_ZONE = 10189, 10223
WRITTEN = [
    "0 9 * * 1-5", "*/15 * * * *", "*/2 * * * * *", "0 0 * * 7", "0 0 * * 1-7", "0 0 * * fri-mon", "0 0 * * Sunday",
    "0 0 1 jan,JUL *", "5/20 * ? * ?", "0 0 */2 * *", "0 0 * * */2", "0 0 13 * fri", "0 0 29 2 *", "0 0 30 2 1",
    "@yearly", "@annually", "@Monthly", "@weekly", "@daily", "@MIDNIGHT", "@hourly",
]  # fmt: skip


class ScheduleStream:
    """A stream of this test's own, with schedules."""

    def __init__(self, client: Client, name: str) -> None:
        self.client, self.name = client, name

    async def ask(self, endpoint: str, **body: object) -> dict[str, object]:
        reply = await self.client.request(f"$JS.API.{endpoint}.{self.name}", json.dumps(body).encode())
        answer: dict[str, object] = json.loads(reply.data)
        assert "error" not in answer, answer
        return answer

    async def put(self, spec: str, zone: str | None = None, *, number: int = 0) -> int | None:
        """Store a schedule; the server's error code, if it refuses."""
        headers = {"Nats-Schedule": spec, "Nats-Schedule-Target": f"{self.name}.due.{number}"}
        if zone is not None:
            headers["Nats-Schedule-Time-Zone"] = zone
        reply = await self.client.request(f"{self.name}.at.{number}", b"", headers=headers, timeout=5)
        return json.loads(reply.data).get("error", {}).get("err_code")

    async def fired(self) -> dict[str, list[Msg]]:
        """What fires from here on, by its number; a scheduled message goes to consumers alone, not to subscribers."""
        found: dict[str, list[Msg]] = {}

        async def keep(message: Msg) -> None:
            found.setdefault(message.subject.rpartition(".")[2], []).append(message)

        await self.client.jetstream().subscribe(f"{self.name}.due.*", cb=keep, ordered_consumer=True)
        return found


@pytest.fixture
async def schedules(plain: Client, namespace: str) -> AsyncIterator[ScheduleStream]:
    stream = ScheduleStream(plain, namespace)
    await stream.ask(
        "STREAM.CREATE",
        name=namespace,
        subjects=[f"{namespace}.at.>", f"{namespace}.due.>"],
        allow_msg_schedules=True,
        allow_msg_ttl=True,
        storage="memory",
    )
    yield stream
    await stream.ask("STREAM.DELETE")


def next_of(message: Msg) -> datetime:
    assert message.headers is not None
    return datetime.fromisoformat(message.headers["Nats-Schedule-Next"])


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
async def test_the_server_takes_what_people_write(schedules: ScheduleStream, zone: str | None) -> None:
    for text in WRITTEN:
        timetable = Timetable.cron(text, zone=zone)
        assert await schedules.put(timetable.spec, timetable.zone) is None, text
    for seconds in (1, 30, 86_400, 3650 * 86_400):
        assert await schedules.put(Timetable.every(seconds).spec) is None, seconds


async def test_the_server_takes_every_translation(schedules: ScheduleStream) -> None:
    texts: list[str] = []

    @settings(max_examples=100, database=None, phases=[Phase.generate])
    @given(cron_texts())
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    assert len(texts) >= 100
    for text in texts:
        assert await schedules.put(Timetable.cron(text).spec) is None, text


@pytest.mark.parametrize(
    "spec",
    [
        "0 9 * * 1-5", "0 0 0 * * 7", "0 0 0 * * 5-7", "0 0 0 * * fri-mon", "0 0 0 * * sun-sat,7", "0 0 0 * * Sunday",
        "0 0 0 1 january *", "0 0 0 * nov-feb *", "0 0 0 L * *", "0 0 0 LW * *", "0 0 0 15W * *", "0 0 0 * * 5L", "0 0 0 * * 1#2",
        "@reboot", "@Daily", "60 * * * * *", "0 60 * * * *", "0 0 24 * * *", "0 0 0 0 * *", "0 0 0 32 * *", "0 0 0 * 13 *",
        "*/0 * * * * *", "0 5-1 * * * *", "0 0 0 30 2 *", "0 0 0 31 4,6,9,11 *", "@every 0.5s", "@every 30", "1-2-3 * * * * *",
    ],
)  # fmt: skip
async def test_the_server_refuses_what_is_translated_or_refused_for_its_sake(
    schedules: ScheduleStream, spec: str
) -> None:
    assert await schedules.put(spec) == INVALID_PATTERN


@pytest.mark.parametrize("zone", ["../x", "/usr/share/zoneinfo/UTC", "Nowhere/Land", "+02:00"])
async def test_the_server_refuses_such_zones_too(schedules: ScheduleStream, zone: str) -> None:
    assert await schedules.put("0 0 9 * * *", zone) == INVALID_ZONE
    with pytest.raises(JobError, match="not an IANA time zone"):
        Timetable.cron("0 9 * * *", zone=zone)


async def test_the_server_has_no_zone_for_an_interval(schedules: ScheduleStream) -> None:
    assert await schedules.put("@every 30s", "Europe/Berlin") == INVALID_PATTERN
    with pytest.raises(JobError, match="an interval has no time zone"):
        Timetable.parse("every 30s", "Europe/Berlin")


@pytest.mark.parametrize("timetable", [Timetable.cron("*/2 * * * * *", zone="Europe/Berlin"), Timetable.every(2)])
async def test_each_firing_tells_the_next_tick_and_so_its_own(schedules: ScheduleStream, timetable: Timetable) -> None:
    fired = await schedules.fired()
    assert await schedules.put(timetable.spec, timetable.zone) is None
    schedule = await schedules.ask("STREAM.MSG.GET", last_by_subj=f"{schedules.name}.at.0")
    stored_at = datetime.fromisoformat(schedule["message"]["time"])  # type: ignore[index]
    await eventually(lambda: len(fired.get("0", [])) >= 3)
    ticks = timetable.next(stored_at, 4, since=stored_at)
    for message, due, following in zip(fired["0"], ticks, ticks[1:], strict=False):
        assert next_of(message) == following
        assert timetable.due_before(next_of(message), message.metadata.timestamp.replace(tzinfo=UTC)) == due


async def test_the_server_computes_the_next_ticks_that_the_preview_has(schedules: ScheduleStream, seed: int) -> None:
    """Random expressions that have one tick in common, so that the server soon tells of each what it holds for the next."""
    fired = await schedules.fired()
    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    rng, timetables = random.Random(seed), []
    for _ in range(200):
        zone = rng.choice(ZONES)
        wall = soon.astimezone(ZoneInfo(zone))
        now = [wall.second, wall.minute, wall.hour, wall.day, wall.month, wall.isoweekday() % 7]
        others = [
            sorted({value, *(rng.randint(*bounds) for _ in range(rng.randrange(3)))})
            for value, bounds in zip(now, BOUNDS, strict=True)
        ]
        fields = [str(wall.second)] + [rng.choice(["*", ",".join(map(str, field))]) for field in others[1:]]
        timetables.append(Timetable.cron(" ".join(fields), zone=zone))
    answers = await asyncio.gather(
        *(schedules.put(timetable.spec, timetable.zone, number=number) for number, timetable in enumerate(timetables))
    )
    assert datetime.now(UTC) < soon
    assert not any(answers)
    await eventually(lambda: len(fired) == len(timetables))
    for number, timetable in enumerate(timetables):
        assert timetable.next(soon, 1) == [next_of(fired[str(number)][0])], timetable
