"""What the server does with the headers by which jsjobs tells where a message came from; see docs/server-quirks.md."""

import json

import pytest
from nats.aio.client import Client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.messages import find_at_leader

SOURCE, SCHEDULER = "Nats-Stream-Source", "Nats-Scheduler"
REFUSED = {SOURCE: 10227, SCHEDULER: 10212, "Nats-Schedule-Next": 10212}


async def refused(jobs: JobService, subject: str, lines: str) -> int:
    """The code of the server's refusal; 0 where it stored the message."""
    reply = await jobs.connection.ask(subject.encode(), b"1", header=f"NATS/1.0\r\n{lines}\r\n".encode())
    return json.loads(reply.data).get("error", {}).get("err_code", 0)


@pytest.mark.parametrize("where", ["normal.e.t", "due.normal.e.t"])
@pytest.mark.parametrize("name", REFUSED)
async def test_a_publisher_may_not_send_the_servers_marks_but_it_overlooks_some(
    jobs: JobService, where: str, name: str
) -> None:
    subject, line = f"{jobs.config.namespace}.{where}", f"{name}: x.at.y\r\n"
    code = REFUSED[name]
    for plainly in (line, f"X-{name}: z\r\n{line}", f"X: {name}: z\r\n{line}", f"A: b\r\n\r\n{line}"):
        assert await refused(jobs, subject, plainly) == code, plainly
    hidden = (line.lower(), f"{name}:\r\n{line}", f"{name}:  \r\n{line}", f"X: {name}{name}\r\n{line}", f"X: y\r{line}")
    for not_seen in hidden:
        assert await refused(jobs, subject, not_seen) == 0, not_seen


async def test_what_is_sourced_and_what_fires_has_the_servers_own_mark_once(jobs: JobService) -> None:
    namespace, stream = jobs.config.namespace, f"{jobs.config.namespace.upper()}_LOW"
    timing = f"Nats-Schedule: @at 2020-01-01T00:00:00Z\r\nNats-Schedule-Target: {namespace}.due.low.e.t\r\n"
    forged = f"{SOURCE}:\r\n{SOURCE}: JOBS_X 1\r\n{SCHEDULER}:\r\n{SCHEDULER}: forged\r\nJsjobs-Id: at-x\r\n"
    assert await refused(jobs, f"{namespace}.at.at-own", timing + forged) == 0

    async def headers() -> bytes | None:
        message = await find_at_leader(jobs.connection, stream, {"seq": 1, "next_by_subj": ">"})
        return message and message.header

    block = await eventually(headers)
    assert block.count(SOURCE.encode()) == block.count(SCHEDULER.encode()) == 1
    assert f"\r\n{SCHEDULER}: {namespace}.at.at-own\r\n".encode() in block
    assert block.splitlines()[-2].startswith(f"{SOURCE}: {namespace.upper()}_SCHEDULE".encode())
    assert b"\r\nJsjobs-Id: at-x\r\n" in block


async def test_a_queue_drops_what_it_sources_as_a_duplicate_of_what_was_published(
    jobs: JobService, plain: Client
) -> None:
    namespace, js = jobs.config.namespace, plain.jetstream()
    await js.publish(f"{namespace}.low.e.t", b"1", headers={"Nats-Msg-Id": "same"})
    await js.publish(f"{namespace}.due.low.e.t", b"2", headers={"Nats-Msg-Id": "same"})
    await js.publish(f"{namespace}.due.low.e.behind", b"3")

    async def stored() -> list[bytes]:
        info = (await js.stream_info(f"{namespace.upper()}_LOW")).state
        messages = [
            await js.get_msg(f"{namespace.upper()}_LOW", info.first_seq + place) for place in range(info.messages)
        ]
        return [message.data for message in messages] if info.messages > 1 else []

    assert await eventually(stored) == [b"1", b"3"]
