"""Messages that a publisher, or a stranger whom nothing but the server restricts, may send."""

import json
from random import Random

from corpus import ADVISORY, ENTRIES, FORMS, HEADER_NAMES, HEADERS, PERIODIC, SCHEDULED
from mutating import Mutator

PRIORITIES = (b"critical", b"high", b"normal", b"low")

SHARDS = {b"critical": 4, b"high": 3, b"normal": 2, b"low": 1}

ENDPOINTS = (b"submit", b"tenant.acme.submit", b"status", b"result", b"progress", b"cancel", b"reschedule", b"replay")

BODIES = (*ENTRIES, *(json.dumps(form).encode() for form in FORMS), b'{"a": [1, 2]}', b"[1]", b"null")


class Hostile:
    """Makes messages: kind, subject, reply subject, header block, body."""

    def __init__(self, seed: int, namespace: str) -> None:
        self._rng, self._ns = Random(seed), namespace.encode()
        schedules = tuple(each.replace(b"jobs.", self._ns + b".") for each in (SCHEDULED, PERIODIC))
        self._headers = Mutator((seed, "headers"), (*HEADERS, *schedules), HEADER_NAMES)
        self._bodies = Mutator((seed, "bodies"), BODIES)
        self._advisories = Mutator(
            (seed, "advisories"), (json.dumps(ADVISORY).replace("JOBS", namespace.upper()).encode(),)
        )
        self._words = Mutator((seed, "words"), (b"echo", b"normal-7", b"at-x", b"a.b", b"customer-42"))
        self._schedules = Mutator((seed, "schedules"), schedules, HEADER_NAMES)

    def next(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        kinds = (
            [self._queue] * 4
            + [self._lane] * 3
            + [self._delivery, self._letter, self._advised, self._request, self._request]
        )
        kinds += [self._cancel, self._progress, self._schedule, self._due, self._entry, self._discovery]
        return self._rng.choice(kinds)()

    def _word(self, most: int = 3000) -> bytes:
        word = self._words.next().translate(None, b" \t\r\n")[:most].strip(b".") or b"x"
        return b".".join(part for part in word.split(b".") if part)

    def _block(self) -> bytes:
        return self._headers.next()[:60_000] if self._rng.random() < 0.6 else b""

    def _body(self) -> bytes:
        return self._bodies.next()

    def _reply(self) -> bytes:
        ns, word = self._ns, self._word(100)
        mine = b"_INBOX.hostile.%b" % word.replace(b".", b"-")
        forged = b"$JS.ACK.%b_NORMAL.normal-1x2-0.1.%b.1.1795350000000000000.0" % (ns.upper(), word)
        in_lane = b"$JS.ACK.%b_NORMAL_PARALLEL.normal-parallel-0.1.%b.1.1795350000000000000.0" % (ns.upper(), word)
        queue = b"%b.normal.e.forged.2.3.4.5.6" % ns
        return self._rng.choice((b"", mine, mine, forged, in_lane, queue, b"$KV.%b.%b" % (ns, word), word))

    def _queue(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        priority = self._rng.choice(PRIORITIES)
        job_type = self._rng.choice((b"echo", b"echo", b"sum", b"apart", self._word()))
        entity = self._rng.choice((b"e1", b"e2", self._word(200).replace(b".", b"-")))
        return "queue", b"%b.%b.%b.%b" % (self._ns, priority, entity, job_type), b"", self._block(), self._body()

    def _lane(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        priority = self._rng.choice(PRIORITIES)
        job_type = self._rng.choice((b"echo", b"echo", b"sum", b"apart", self._word()))
        key = self._rng.choice((b"-", b"acme", self._word(200).replace(b".", b"-")))
        return "lane", b"%b.parallel.%b.%b.%b" % (self._ns, priority, key, job_type), b"", self._block(), self._body()

    def _delivery(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        priority = self._rng.choice(PRIORITIES)
        shards = SHARDS[priority]
        place = b"%b.1x%d.%d" % (priority, shards, self._rng.randrange(shards))
        subject = b"%b.deliver.%b" % (self._ns, self._rng.choice((place, place, b"dead")))
        return "deliver subject", subject, self._reply(), self._block(), self._body()

    def _letter(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        return "dead letter", b"%b.dead.%b" % (self._ns, self._word()), b"", self._block(), self._body()

    def _advised(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        stream = b"%b_%b" % (self._ns.upper(), self._rng.choice(PRIORITIES).upper())
        subject = b"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.%b.x" % stream
        return "advisory", subject, b"", self._block(), self._advisories.next()

    def _request(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        subject = b"%b.rpc.%b" % (self._ns, self._rng.choice(ENDPOINTS))
        return "service request", subject, self._reply(), self._block(), self._body()

    def _cancel(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        return "cancel request", b"%b.cancel.%b" % (self._ns, self._word()), self._reply(), self._block(), self._body()

    def _progress(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        return "progress", b"%b.progress.%b" % (self._ns, self._word(200).replace(b".", b"-")), b"", b"", self._body()

    def _schedule(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        return "schedule", b"%b.at.%b" % (self._ns, self._word()), b"", self._schedules.next()[:60_000], self._body()

    def _due(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        lane = self._rng.choice((b"", b"parallel."))
        subject = b"%b.due.%b%b.e.%b" % (self._ns, lane, self._rng.choice(PRIORITIES), self._word(500))
        return "due job", subject, b"", self._block(), self._body()

    def _entry(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        return "foreign key", b"$KV.%b.foreign-%b" % (self._ns, self._word(200)), b"", b"", self._body()

    def _discovery(self) -> tuple[str, bytes, bytes, bytes, bytes]:
        verb = self._rng.choice((b"PING", b"INFO", b"STATS"))
        return "discovery", b"$SRV.%b.%b" % (verb, self._ns), self._reply(), self._block(), self._body()
