"""What needs no server: help, wrong use, and servers that are not there."""

import io
import sys
from pathlib import Path

import pytest
import typer

from jsjobs.cli.app import app, main
from jsjobs.cli.command_table import COMMANDS, imported

NOWHERE = "nats://someone:secret@127.0.0.1:9"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def commands() -> list[list[str]]:
    found = []
    for name, command in typer.main.get_group(app).each_command():
        if name == "demo":
            continue
        inner = getattr(command, "commands", None)
        found += [[name, word] for word in inner] if inner else [[name]]
    return found


def test_version(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert (code, out.split()[0]) == (0, "jsjobs")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_a_command_says_of_itself(name: str) -> None:
    command = imported(name)
    assert command.help is not None
    assert COMMANDS[name].summary == " ".join(command.help.split("\n\n")[0].split())


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_examples_in_its_help(
    alone: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code, out, _ = run(capsys, *words, "--help")
    assert code == 0
    assert "Examples" in out
    assert f"jsjobs {' '.join(words)}" in out.partition("Examples")[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "echo", "hello"], """string needs double quotes, inside single quotes for the shell: '"hello"'"""),
        (["submit", "echo", '{"a": 1'], "the payload is not JSON: EOF while parsing"),
        (["submit", "echo", "NaN"], "the payload is not JSON"),
        (["submit", "echo", "@no-such-file.json"], "cannot be read from no-such-file.json: No such file"),
        (["submit", "echo", "1", "--timeout", "10"], "invalid duration '10': it has no unit, write 10s, 10m or 10h"),
        (
            ["submit", "echo", "1", "--priority", "urgent"],
            "'--priority': 'urgent' is not one of 'critical', 'high', 'normal', 'low'.",
        ),
        (["submit", "echo", "1", "--namespace", "No Such"], "namespace 'No Such' must be"),
        (["submit", "echo", "1", "--max-attempts", "1001"], "'--max-attempts': it must be less than or equal to 1000"),
        (
            ["schedule", "add", "s", "echo", "1", "--every", "1h", "--max-attempts", "0"],
            "greater than or equal to 1",
        ),
        (["submit", "echo"], "Missing argument"),
        (
            ["result", "normal-1", "--timeout", "soon"],
            "invalid duration 'soon': write a number above zero and its unit",
        ),
        (["dlq", "list", "--since", "yesterday"], "neither a duration such as 2h nor a time"),
        (["dlq", "list"], "no database is set: start one with `jsjobs dev`, or set DATABASE_URL"),
        (["dlq", "list", "--database-url", "mysql://u:secret@h/d"], "the database URL cannot be used"),
        (["db", "migrate"], "no database is set"),
        (["router"], "no database is set"),
        (["streams", "plan", "--scale", "99"], "settings: scale: "),
        (["streams", "plan", "--replicas", "0"], "settings: replicas: "),
        (["worker", "app"], "like app:jobs or path/app.py:jobs"),
        (["no-such-command"], "No such command"),
    ],
)
def test_wrong_use_exits_2(alone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert said in " ".join(err.replace("│", " ").split())
    assert "secret" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [["queues", "\u202ex"], ["\u202ex"], ["queues", "--\u202ex"], ["submit", "t", "1", "--priority", "\u202ex"]],
)
def test_what_is_repeated_of_wrong_use_commands_no_terminal(
    alone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "\\u202ex" in err
    assert "\u202e" not in err
    assert "\\ufeff" in run(capsys, "queues", "\ufeff")[2]


def test_all_lines_that_are_not_json_are_listed(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}\nhello\n\n[1,\n"good"\n')))
    code, _, err = run(capsys, "submit", "echo", "-")
    assert code == 2
    assert err.splitlines() == [
        "error: nothing was queued:",
        "line 2 is not JSON: expected value at column 1",
        "line 4 is not JSON: EOF while parsing a value at column 3",
    ]


@pytest.mark.parametrize("arguments", [["status", "normal-1"], ["streams", "apply"]])
def test_without_a_server_there_is_one_clear_line(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("JSJOBS_TIMEOUT", "0.3")
    code, out, err = run(capsys, *arguments, "--nats-url", NOWHERE)
    assert (code, out) == (1, "")
    assert err.startswith("error: cannot reach NATS at nats://127.0.0.1:9: ")
    assert err.endswith("start one with `jsjobs dev`, or set NATS_URL\n")
    assert err.count("\n") == 1


def test_without_a_database_server_there_is_one_clear_line(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "dlq", "list", "--database-url", "postgresql://someone:secret@127.0.0.1:9/shop")
    assert code == 1
    assert err.startswith("error: Postgres at 127.0.0.1:9/shop is not available: ")
    assert err.endswith("start one with `jsjobs dev`, or set DATABASE_URL\n")
    assert err.count("\n") == 1
    assert "secret" not in err
