"""Jobs' bodies: read for a handler, composed by a submit, given on the command line, edited."""

import io
import json
import sys
from contextlib import suppress
from typing import Any

from corpus import FORMS
from pydantic import BaseModel, ValidationError
from target import NOW, Target, refused, text_of

from jsjobs.cli.commands.payloads import read_lines, read_one
from jsjobs.cli.dlq.editor import readable
from jsjobs.cli.errors import WrongUse
from jsjobs.handlers.registry import read_handler
from jsjobs.jetstream.protocol.headers import encode_json
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, new_status
from jsjobs.model.payload import JobPayload
from jsjobs.postgres import sanitise


class Tree(BaseModel):
    name: str = ""
    size: int = 0
    children: "list[Tree]" = []


def _any(payload: Any) -> Any: ...


def _tree(payload: Tree) -> Tree: ...  # type: ignore[empty-body]


def _numbers(payload: dict[str, list[float]]) -> None: ...


HANDLERS = [read_handler(f"t{number}", each) for number, each in enumerate((_any, _tree, _numbers))]


def payload(data: bytes) -> bool:
    """A job's body: read for its handler; what was read can be written, and be read again."""
    taken = False
    for handler in HANDLERS:
        try:
            value = handler.read_payload(data)
            raw = handler.write_result(value)
        except JobError as error:
            assert error.reason is Reason.VALIDATION
            refused(error.message)
            continue
        taken = True
        if raw is not None:
            handler.read_payload(raw)
            found = JobStatusResponse.model_validate_json(
                new_status({"job_id": "x", "status": Status.COMPLETE}).to_json(raw)
            )
            found.to_json()
    return taken


def submit_forms(data: bytes) -> bool:
    """What a submit asks for, from Python or JSON."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(value, dict):
        return False
    try:
        form = JobPayload(**{str(name): each for name, each in value.items()})
    except ValidationError:
        return False
    with suppress(JobError):
        encode_json(form.payload, "the payload")
    return form.due(NOW) is None or True


def batch_lines(data: bytes) -> bool:
    """JSON lines on standard input."""
    before, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(data))
    try:
        lines = read_lines()
    except WrongUse as error:
        assert "nothing was queued" in str(error)
        return False
    finally:
        sys.stdin = before
    assert len(lines.payloads) == len(lines.numbers)
    return bool(lines.payloads)


def payload_argument(data: bytes) -> bool:
    text = text_of(data.replace(b"\0", b""))
    if text.startswith("@"):
        text = f"@no-such-folder/{text[1:]}"
    try:
        read_one(text)
    except WrongUse as error:
        assert "Traceback" not in str(error)
        return False
    return True


def edited_payload(data: bytes) -> bool:
    """A dead letter's body on its way into an editor and into the table."""
    shown = readable(data)
    if shown != data:
        assert repr(json.loads(shown)) == repr(json.loads(data))
    document = sanitise.json_text(data)
    if document is not None:
        sanitise.read_json(document)
    sanitise.read_json(data.decode("utf-8", "replace"))
    return document is not None


def _form(form: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in form.items() if name != "request_id"}).encode()


TARGETS = (
    Target(
        "payload",
        payload,
        (
            b'{"name": "a", "size": 1, "children": [{"name": "b", "size": 2, "children": []}]}',
            b'{"a": [1.5, 2e10], "b": []}',
            b'[1, "two", null, true, {"three": [3.0]}]',
            b'"text"',
        ),
        (b'{"children": [' * 180, b"[" * 199 + b"]" * 199, b'"a":1,"a":2'),
        2,
    ),
    Target("submit form", submit_forms, tuple(_form(form) for form in FORMS[:3]), (b'"payload"',), 0.5),
    Target("lines on standard input", batch_lines, (b'{"a": 1}\n[2]\n\n"three"\n', b"\xef\xbb\xbf1\n2\r\n"), (b"\n",)),
    Target("payload argument", payload_argument, (b'{"a": 1}', b'"text"', b"@file.json", b"null")),
    Target(
        "edited payload", edited_payload, (b'{"a":1,"b":[1.5,null]}', b'{"a": 1e100}', b'"\xc3\xbc"'), (b"1e131071",)
    ),
)
