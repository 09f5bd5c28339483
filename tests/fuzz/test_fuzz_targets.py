"""Every fuzz target with a few hundred inputs, mutated and as hypothesis finds them; `just fuzz` runs a million."""

import gc
import json
from collections import Counter

import fuzz_targets_run as run
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from target import Answering, Target, fuzzed, parts, text_of

from jsjobs.jetstream.api.errors import InvalidResponse, Refusal
from jsjobs.jetstream.api.messages import find_at_leader
from jsjobs.jetstream.api.requests import read_answer
from jsjobs.jetstream.jobs.delivery import Delivery, NoDelivery
from jsjobs.jetstream.protocol.names import Names, StoredSubject
from jsjobs.maintenance.router import read_advisory
from jsjobs.model.errors import JobError

TARGETS = list(run.TARGETS.values())
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_mutated_inputs_are_taken_or_refused(target: Target, seed: int) -> None:
    with run.quiet():
        outcome = fuzzed(target, seed, max(40, round(300 * min(1, target.weight))))
    assert run.report(target, outcome)
    assert outcome.taken, "a target that takes nothing shows nothing"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@settings(max_examples=15)
@given(data=st.data())
def test_inputs_of_hypothesis_are_taken_or_refused(target: Target, data: st.DataObject) -> None:
    joined = st.lists(st.binary(max_size=60) | st.sampled_from(target.corpus), max_size=3).map(b"\x1f".join)
    with run.quiet():
        target.run(data.draw(joined))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b"[" * 199 + b"]" * 199,
        b'{"job_id":' + b"9" * 5000 + b"}",
        b'"\\ud800"',
        b'"\xed\xa0\x80"',
        b"\x00" * 1000,
        b'{"a":1,"a":2}',
        b"NaN",
        b"\xff" * 300,
    ],
    ids=lambda data: repr(data[:12]),
)
def test_depths_numbers_and_characters_that_readers_do_not_agree_on(target: Target, data: bytes) -> None:
    with run.quiet():
        target.run(data)


def test_the_same_seed_makes_the_same_inputs() -> None:
    seen: list[list[bytes]] = [[], []]
    for inputs in seen:
        recording = Target("x", lambda data, inputs=inputs: bool(inputs.append(data)), (b'{"a": [1, "b"]}', b"c"))
        fuzzed(recording, 5, 500)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 300


def test_a_crash_is_found_and_told(capsys: pytest.CaptureFixture[str]) -> None:
    def breaks(data: bytes) -> bool:
        if b"\x00" in data:
            raise KeyError(data)
        return True

    assert not run.pure([Target("breaks", breaks, (b"fine",))], 1, 2000)
    said = capsys.readouterr().out
    assert "CRASH of breaks: KeyError" in said
    assert "--input" in said


# -- what the fuzzing found, kept ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("state entry", b'{"job_id": "x", "status": "queued", "snoozed_until": "2026-11-22T12:00:00", "history": []}'),
        ("state entry", b'{"job_id": "x", "status": "queued", "retry": {"due": "2026-11-22T12:00:00"}}'),
        ("topology entry", b'{"generations": ["1x4"], "copies": 1e999}'),
        ("topology entry", b'{"generations": ["1x4"], "paused_until": "2026-11-22T12:00:00"}'),
        ("server's answer", b'\x1f{"error": "nope"}'),
        ("server's answer", b"\x1f[]"),
        ("server's answer", b'\x1f{"stream":"J","seq":' + b"9" * 5000 + b"}"),
        ("settings", b"JSJOBS_POOLS={"),
        ("settings", b"JSJOBS_RETRY=" + b"[" * 5000),
        ("server address", b"postgresql://a..b/d"),
        ("server address", b"postgresql://h:" + b"9" * 5000 + b"/d"),
        ("server's answer", b'\x1f{"error": {"code": 400, "description": "' + b"x" * 50_000 + b'"}}'),
    ],
)
def test_what_was_found_is_refused(name: str, data: bytes) -> None:
    with run.quiet():
        is_taken = run.TARGETS[name].run(data)
    assert not is_taken


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("entry on a terminal", b'{"job_id": "x", "status": "queued", "created_at": "0001-01-01T00:00:00+23:59"}'),
    ],
)
def test_what_was_found_is_read_though_it_is_odd(name: str, data: bytes) -> None:
    with run.quiet():
        is_taken = run.TARGETS[name].run(data)
    assert is_taken


async def test_a_message_whose_number_is_none_is_refused() -> None:
    said = b'{"message": {"subject": "a", "seq": 1e999, "time": "2026-11-22T12:00:00Z"}}'
    with pytest.raises(InvalidResponse):
        await find_at_leader(Answering(b"", said), "JOBS_HIGH", {"seq": 7})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "reply", [b"", b"x", b"a.b.c.d.1.2.3.4.5", b"$JS.ACK.S.c.1.x.1.1.0", b"$JS.ACK.S.c.1.2.3." + b"9" * 30 + b".0"]
)
def test_a_reply_subject_that_no_consumer_has_makes_no_delivery(reply: bytes) -> None:
    with pytest.raises(NoDelivery):
        Delivery(None, b"jobs.work.low.1x1.0.a", reply, b"", b"")  # type: ignore[arg-type]


def test_a_message_on_the_deliver_subject_itself_makes_no_delivery() -> None:
    reply = b"$JS.ACK.JOBS_LOW.low-1x1-0.1.7.1.1795350000000000000.0"
    assert Delivery(None, b"jobs.work.low.1x1.0.a", reply, b"", b"").sequence == 7  # type: ignore[arg-type]
    with pytest.raises(NoDelivery):
        Delivery(None, b"jobs.deliver.low.1x1.0", reply, b"", b"")  # type: ignore[arg-type]


@given(JSON, st.sampled_from([b"", b"{", b"]"]))
def test_an_answer_is_an_object_or_garbled(value: object, more: bytes) -> None:
    try:
        answer = read_answer(json.dumps(value).encode() + more, "x")
    except InvalidResponse as error:
        assert error.is_transient
    else:
        assert isinstance(answer, dict | Refusal)
    assert read_advisory(json.dumps(value).encode(), {"JOBS_LOW"}) is None


def test_many_problems_are_counted_and_a_few_told() -> None:
    handler = run.payload_targets.HANDLERS[2]
    with pytest.raises(JobError) as caught:
        handler.read_payload(b'{"a": [' + b'"x",' * 50_000 + b'"x"]}')
    assert "a.0: " in caught.value.message
    assert "and 49981 more" in caught.value.message
    assert len(caught.value.message) < 3000
    with pytest.raises(JobError) as caught:
        handler.read_payload(b'{"' + b"k" * 500_000 + b'": 1}')
    assert len(caught.value.message) < 500


def test_parts_and_texts() -> None:
    assert parts(b"a\x1fb", 3) == [b"a", b"b", b""]
    assert text_of(b"\xff") == "\udcff"


def test_what_a_worker_remembers_of_subjects_is_bounded() -> None:
    names, before = Names("jobs"), kept_subjects()
    for number in range(12_000):
        names.parse_stored(b"jobs.work.low.1x1.0.t%d" % number)
        names.parse_stored(b"jobs.work.low.1x1.0.%b%d" % (b"t" * 3000, number))
    remembered = kept_subjects() - before
    assert 0 < remembered.total() <= 10_000
    assert max(map(len, remembered)) <= 512


def kept_subjects() -> Counter[str]:
    """The job types of the subjects that somebody holds."""
    return Counter(each.type for each in gc.get_objects() if type(each) is StoredSubject)
