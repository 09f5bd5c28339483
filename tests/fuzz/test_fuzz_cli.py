"""Arguments, standard input and environments that make no sense end a command with a line and an exit code."""

import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from mutating import HOSTILE_WORDS

from jsjobs.cli.app import main
from jsjobs.postgres.errors import InvalidDatabaseUrl
from jsjobs.postgres.url import place

UNEXPECTED = re.compile(r"unexpected \w+: ")
"""What is said of an error that nobody thought of."""
NOWHERE = "nats://127.0.0.1:1"
"""Nobody listens there: what gets as far as a server ends in one line too."""
COMMANDS = (
    ("submit", "email.send", '{"a": 1}', "--delay", "1s"),
    ("submit", "email.send", "1", "--priority", "high", "--entity", "e", "--timeout", "5s", "--expires", "1h"),
    ("submit", "email.send", "1", "--at", "2030-01-01T00:00:00Z", "--max-attempts", "3", "--tenant", "acme"),
    ("submit", "email.send", "-"),
    ("status", "normal-7", "--json"),
    ("result", "at-x", "--timeout", "1s"),
    ("progress", "normal-7"),
    ("cancel", "normal-7", "--timeout", "1s"),
    ("reschedule", "at-x", "--delay", "5m"),
    ("batch", "5f0c3a9be1d24c77"),
    ("queues", "--json"),
    ("pause", "high"),
    ("schedule", "add", "nightly", "a.b", "1", "--cron", "0 3 * * *", "--tz", "Europe/Berlin"),
    ("schedule", "add", "often", "a.b", "1", "--every", "30s"),
    ("schedule", "show", "nightly"),
    ("dlq", "list", "--since", "2h", "--limit", "5", "--type", "a.b", "--json"),
    ("dlq", "show", "3f2a9c"),
    ("dlq", "edit", "3f2a9c", '{"a": 1}'),
    ("dlq", "replay", "3f2a9c", "--priority", "low"),
    ("dlq", "discard", "--reason", "Timeout"),
    ("streams", "plan", "--scale", "2"),
    ("worker", "no_such_module:jobs", "--concurrency", "3"),
    ("top", "--json"),
)
WORDS = [os.fsdecode(word.replace(b"\0", b"")) for word in HOSTILE_WORDS if len(word) < 1000]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("JSJOBS_", "NATS_URL", "DATABASE_URL"))]:
        del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def ended(arguments: list[str], stdin: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
    before = dict(os.environ)
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    os.environ.update({"NATS_URL": NOWHERE, "DATABASE_URL": "postgresql://127.0.0.1:1/x"})
    try:
        main(arguments)
    except SystemExit as end:
        assert isinstance(end.code, int)
        for stream in (out, err):
            stream.flush()
        return end.code, *(stream.buffer.getvalue().decode() for stream in (out, err))
    finally:
        os.environ.clear()
        os.environ.update(before)
    raise AssertionError("a command ends the process")


@pytest.mark.parametrize("part", range(4))
def test_no_arguments_end_in_a_traceback(seed: int, part: int, nowhere: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = Random(f"{seed}/{part}")
    codes = set()
    for _ in range(30):
        arguments = list(rng.choice(COMMANDS))
        for _ in range(rng.choice((1, 1, 2))):
            place = rng.randrange(1, len(arguments))
            if not arguments[place].startswith("--") or rng.random() < 0.2:
                arguments[place] = rng.choice(WORDS)
        stdin = b"\n".join(rng.choices(HOSTILE_WORDS, k=5))
        code, out, err = ended(arguments, stdin, monkeypatch)
        codes.add(code)
        assert code in {0, 1, 2}, arguments
        assert "Traceback" not in err, (arguments, err)
        assert not UNEXPECTED.search(err), (arguments, err)
        assert all(char.isprintable() or char in "\n\t" for char in out + err), (arguments, err)
    assert codes >= {1, 2}


SETTINGS = {
    "JSJOBS_POOLS": ("{", "[]", "[" * 5000, '{"critical": 0}', '{"urgent": 1}', '{"high": NaN}', "9" * 5000),
    "JSJOBS_RETRY": ("{nope", "null", '{"initial": 1e999}', '{"jitter": "x"}', '{"extra": 1}'),
    "JSJOBS_ACK_WAIT": ("nan", "inf", "-1", "1e9", "٣", "\udcff"),
    "JSJOBS_NAMESPACE": ("*", "a.b", "A" * 100, "\udc80", "\x1b[31m"),
    "JSJOBS_REPLICAS": ("9" * 5000, "2.5", "--"),
    "JSJOBS_NATS_CREDS": ("/no/such/file", "\udcff"),
    "NATS_URL": ("nats://", "http://[::1", "nats://\udcff:4222", ","),
    "DATABASE_URL": ("postgresql://h:x/d", "mysql://", "postgresql://\udcff/d", "postgresql://[", "p" * 5000),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_of_the_environment_ends_in_a_traceback(
    name: str, nowhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in SETTINGS[name]:
        for command in (["status", "normal-7"], ["dlq", "list"]):
            with monkeypatch.context() as patch:
                patch.setattr(os, "environ", os.environ)
                option = {"NATS_URL": ["--nats-url", value], "DATABASE_URL": ["--database-url", value]}.get(name, [])
                if not option:
                    patch.setenv(name, value)
                code, out, err = ended([*command, *option], b"", patch)
            assert code in {1, 2}, (value, err)
            assert out == ""
            assert err.startswith("error: "), (value, err)
            assert "Traceback" not in err
            assert not UNEXPECTED.search(err), (value, err)


@pytest.mark.parametrize("url", ["postgresql://a..b/d", "postgresql://u:\udcff@h/d", f"postgresql://{'x' * 70}.org/d"])
def test_a_host_that_can_be_none_is_said_so(url: str) -> None:
    with pytest.raises(InvalidDatabaseUrl, match=r"its host is not a valid name|not UTF-8"):
        place(url)
    assert place("postgresql:///d?host=/" + "x" * 90).startswith("/xxx")
