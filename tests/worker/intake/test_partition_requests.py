"""The requests of one partition, as the server's words and jobs come: pure."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Partition
from jsjobs.model.job import Priority
from jsjobs.worker.intake.partition_requests import ASK_BYTES, ASK_LOST, Kind, PartitionRequests, read_status

PARTITION = Partition(Priority.NORMAL, 1)
BELL, ASK = Kind.BELL, Kind.ASK


@dataclass
class Server:
    sent: list[tuple[Kind, bytes]] = field(default_factory=list)
    is_away: bool = False

    def send(self, partition: Partition, kind: Kind, body: bytes) -> int | None:
        assert partition is PARTITION
        if self.is_away:
            return None
        self.sent.append((kind, body))
        return len(self.sent)


@dataclass
class Came:
    pending: int = 0
    attempt: int = 1


def job(pending: int = 0, attempt: int = 1) -> Delivery:
    return cast(Any, Came(pending, attempt))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def requests(server: Server) -> PartitionRequests:
    return PartitionRequests(PARTITION, server.send)


def test_a_bell_brings_one_job_and_tells_whether_more_wait(requests: PartitionRequests) -> None:
    requests.ring(0)
    requests.took(job(pending=3), BELL, 1)
    assert (bool(requests.bell_number), requests.has_work) == (False, True)
    requests.took(job(), BELL, 1)
    assert not requests.has_work
    requests.took(job(attempt=2), BELL, 1)
    assert requests.has_work, "a redelivered job may be one of many, which the server does not count as pending"


def test_an_ask_ends_with_its_last_job(requests: PartitionRequests, server: Server) -> None:
    requests.ask(2, 0)
    assert server.sent == [(ASK, b'{"batch": 2, "max_bytes": %d, "no_wait": true}' % ASK_BYTES)]
    requests.took(job(9), ASK, 0)
    assert (requests.asked, bool(requests.ask_number)) == (1, True)
    requests.took(job(8), ASK, 0)
    assert (requests.asked, bool(requests.ask_number), requests.has_work) == (0, False, True)


def test_a_bell_that_rings_during_an_ask_counts_as_itself(requests: PartitionRequests) -> None:
    requests.ring(0)
    requests.ask(2, 0)
    requests.took(job(1), BELL, 0)
    assert (requests.asked, bool(requests.bell_number)) == (2, False), (
        "it is missing from the bells, and not from the ask"
    )
    requests.took(job(1), ASK, 0)
    requests.told(2, 404, b"No Messages", 0)
    assert (bool(requests.ask_number), requests.has_work, bool(requests.bell_number)) == (False, False, False)


def test_a_job_of_a_request_that_counts_as_lost_ends_no_other(requests: PartitionRequests) -> None:
    requests.ring(0)
    requests.took(job(), ASK, 0)
    assert bool(requests.bell_number)
    requests.ask(3, 0)
    requests.check(ASK_LOST)
    requests.ask(1, ASK_LOST)
    requests.told(2, 404, b"No Messages", ASK_LOST)
    assert bool(requests.ask_number), "that was the word about the first one"


@pytest.mark.parametrize("status", [404, 408])
def test_nothing_is_left(requests: PartitionRequests, status: int) -> None:
    requests.has_work = True
    requests.ask(5, 0)
    assert not requests.told(1, status, b"No Messages", 0)
    assert (bool(requests.ask_number), requests.asked, requests.has_work, requests.not_before) == (False, 0, False, 0)


def test_a_completed_batch_is_no_refusal_and_its_jobs_may_come_later(requests: PartitionRequests) -> None:
    requests.has_work = True
    requests.ask(2, 0)
    requests.took(job(7), ASK, 0)
    assert not requests.told(1, 409, b"Batch Completed", 0)
    assert (requests.asked, requests.not_before) == (1, 0)
    requests.took(job(6), ASK, 0)
    assert (bool(requests.ask_number), requests.has_work) == (False, True)


def test_full_bytes_end_an_ask_and_its_partition_goes_on(requests: PartitionRequests) -> None:
    requests.has_work = True
    requests.ask(5, 0)
    requests.took(job(7), ASK, 0)
    assert not requests.told(1, 409, b"Message Size Exceeds MaxBytes", 0)
    assert (bool(requests.ask_number), requests.has_work, requests.not_before) == (False, True, 0)


def test_a_message_that_no_ask_can_bring_is_left_to_a_bell(requests: PartitionRequests) -> None:
    requests.has_work = True
    requests.ask(5, 0)
    requests.told(1, 409, b"Message Size Exceeds MaxBytes", 0)
    assert (bool(requests.ask_number), requests.has_work, requests.not_before) == (False, False, 0)


@pytest.mark.parametrize(
    ("status", "text", "is_missing"),
    [(409, b"Consumer Deleted", True), (503, b"", True), (409, b"Leadership Change", False), (400, b"Bad", False)],
)
@pytest.mark.parametrize("kind", list(Kind))
def test_a_refused_request_is_made_again_a_little_later(
    requests: PartitionRequests, kind: Kind, status: int, text: bytes, *, is_missing: bool
) -> None:
    pauses = []
    for number in range(1, 12):
        requests.has_work = kind is ASK
        requests.ring(0) if kind is BELL else requests.ask(5, 0)
        assert requests.told(number, status, text, 0) is is_missing
        assert (bool(requests.ask_number), bool(requests.bell_number)) == (False, False)
        assert requests.has_work is (kind is ASK)
        pauses.append(requests.not_before)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.02, 1.28)
    requests.took(job(), BELL, 0)
    requests.ring(0)
    requests.told(12, status, text, 0)
    assert requests.not_before == 0.02, "a consumer that answered is asked soon again"


def test_a_bell_lives_by_its_heartbeats(requests: PartitionRequests) -> None:
    requests.ring(0)
    requests.told(1, 100, b"Idle Heartbeat", 20)
    requests.check(44)
    assert bool(requests.bell_number)
    requests.check(45)
    assert not bool(requests.bell_number)
    requests.ring(50)
    requests.told(1, 408, b"Request Timeout", 50)
    assert bool(requests.bell_number), "that was the word about the first one"
    requests.told(2, 408, b"Request Timeout", 50)
    assert (bool(requests.bell_number), requests.not_before) == (False, 0)


def test_a_silent_ask_is_lost_and_a_bell_finds_out(requests: PartitionRequests) -> None:
    requests.has_work = True
    requests.ask(3, 0)
    requests.took(job(2), ASK, 4)
    requests.check(8)
    assert bool(requests.ask_number)
    assert requests.asking_for(8) == 4
    requests.check(9)
    assert (bool(requests.ask_number), requests.asked, requests.has_work) == (False, 0, False)


def test_nothing_is_under_way_without_a_connection(requests: PartitionRequests, server: Server) -> None:
    server.is_away = True
    requests.ring(0)
    requests.ask(3, 0)
    assert (bool(requests.bell_number), bool(requests.ask_number), requests.asked) == (False, False, 0)


def test_a_lost_connection_takes_all_requests_along_and_no_knowledge(requests: PartitionRequests) -> None:
    requests.has_work = True
    requests.ring(0)
    requests.ask(3, 0)
    requests.forget()
    assert (bool(requests.bell_number), bool(requests.ask_number), requests.asked, requests.has_work) == (
        False,
        False,
        0,
        True,
    )


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", (404, b"No Messages")),
        (b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 1\r\n\r\n", (408, b"Request Timeout")),
        (b"NATS/1.0 503\r\n\r\n", (503, b"")),
        (b"NATS/1.0 100 Idle Heartbeat\r\n\r\n", (100, b"Idle Heartbeat")),
        (b"NATS/1.0\r\nA: b\r\n\r\n", (0, b"")),
        (b"NATS/1.0 x\r\n\r\n", (0, b"")),
        (b"NATS/1.0 ", (0, b"")),
        (b"", (0, b"")),
    ],
)
def test_the_words_of_the_server_are_read(header: bytes, status: tuple[int, bytes]) -> None:
    assert read_status(header) == status
