"""What a large submit costs the micro service: its payload is JSON, and nothing looks at its values one by one."""

import gc
import json
import sys
from types import FrameType
from typing import Any

import pytest

from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.micro.service import ServiceRequest
from jsjobs.model.errors import JobError
from jsjobs.operations.compose import body_of
from jsjobs.rpc.reading import read_submit

MANY = b"[" + b",".join([b"[]"] * 280_000) + b"]"
LARGE = {
    "a list of lists": MANY,
    "a list in an object": b'{"a":' + MANY + b"}",
    "many keys": b"{" + b",".join(b'"%d":[]' % number for number in range(80_000)) + b"}",
    "a text that reads NaN": b'["NaN",' + MANY + b"]",
    "stars as of a secret": b'["**********",' + MANY + b"]",
    "numbers": b"[" + b",".join([b"1"] * 420_000) + b"]",
}


def request(payload: bytes, more: bytes = b"") -> ServiceRequest:
    return ServiceRequest("jobs.rpc.submit", b"", b'{"type":"echo"' + more + b',"payload":' + payload + b"}")


@pytest.mark.parametrize("more", [b"", b',"delay":60'])
@pytest.mark.parametrize("payload", LARGE.values(), ids=LARGE)
def test_a_submit_costs_no_step_of_python_for_each_of_its_values(payload: bytes, more: bytes) -> None:
    steps, collections = 0, 0

    def step(_frame: FrameType, _event: str, _argument: Any) -> None:
        nonlocal steps
        steps += 1

    def collected(_phase: str, _info: dict[str, int]) -> None:
        nonlocal collections
        collections += 1

    asked = request(payload, more)
    gc.collect()  # what other tests left behind counts elsewhere
    gc.callbacks.append(collected)
    sys.setprofile(step)
    try:
        _, written = read_submit(asked)
        body = body_of(Registry(), "echo", written)
    finally:
        sys.setprofile(None)
        gc.callbacks.remove(collected)
    assert body == payload
    assert steps < 500
    assert collections < 5, "each looks at all values that there are"
    assert gc.isenabled()


@pytest.mark.parametrize("levels", [1, 192, 193, 300])
def test_a_payload_is_refused_that_could_not_be_read_in_an_entry(levels: int) -> None:
    """An entry or a letter has 8 levels around it, and readers take 200."""
    payload = b"[" * levels + b"]" * levels
    if levels <= 192:
        assert read_submit(request(payload))[1].raw == payload
    else:
        with pytest.raises(JobError, match="recursion limit exceeded"):
            read_submit(request(payload))


@pytest.mark.parametrize("payload", [b"NaN", b'{"a":[1,-Infinity]}', b"[1e400]", b'"\\ud800"', b"[1", b"9" * 4301])
def test_what_is_no_json_is_refused(payload: bytes) -> None:
    with pytest.raises(JobError, match="JSON"):
        read_submit(request(payload))


@pytest.mark.parametrize("payload", [[1, [2]], {"a": [1]}, "x", None])
def test_a_handler_here_gets_a_list_as_a_list(payload: object) -> None:
    registry = Registry()

    async def echo(given: Any) -> Any:
        return given

    registry.register("echo", echo)
    _, written = read_submit(request(json.dumps(payload).encode()))
    assert json.loads(body_of(registry, "echo", written)) == payload
