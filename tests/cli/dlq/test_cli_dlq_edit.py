"""`jsjobs dlq edit`: the payload given at once, or changed in an editor; nothing that was written is ever lost."""

import base64
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cli_process import Cli, Ended

from jsjobs import JobService
from jsjobs.postgres.dead_letters import DeadLetter, NewDeadLetter

BEFORE = b'{"to":"ada@example.org","n":[1,2]}'


@pytest.fixture
async def jobs(cli: Cli, config: JobService.Config) -> AsyncIterator[JobService]:
    async with JobService(config) as service:
        await store(service, BEFORE)
        yield service


async def store(jobs: JobService, payload: bytes, job_id: str = "low-1") -> None:
    letter = NewDeadLetter(
        original_job_id=job_id,
        type="echo",
        priority="low",
        payload=payload,
        error_reason="MaxRetries",
        attempts=3,
        dead_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    await jobs.dlq.store(letter)


async def found(jobs: JobService, job_id: str = "low-1") -> DeadLetter:
    return await jobs.dlq.find(job_id)


def editor(cli: Cli, script: str) -> dict[str, str]:
    """An editor that does this with the file `$1`."""
    file = cli.folder / "editor.sh"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return {"EDITOR": f"{file} --wait", "VISUAL": "", "TMPDIR": str(cli.folder)}


def drafts(cli: Cli) -> list[Path]:
    return list(cli.folder.glob("jsjobs-payload-*.json"))


async def test_a_payload_that_is_given_is_stored_and_replayed(cli: Cli, jobs: JobService) -> None:
    ended = await cli.run("dlq", "edit", "low-1", '{"to": "grace@example.org", "price": 1.50}', "--json")
    letter = await found(jobs)
    assert (ended.code, json.loads(ended.out)) == (
        0,
        {"id": str(letter.id), "edited": True, "replayed_job_id": f"replay-1-{letter.id}"},
    )
    assert (letter.payload, letter.original_payload) == (b'{"to": "grace@example.org", "price": 1.50}', BEFORE)
    assert letter.replayed_at is not None

    @jobs.handler("echo")
    async def echo(payload: object) -> object:
        return payload

    async with jobs.worker():
        assert await jobs.result(f"replay-1-{letter.id}") == {"to": "grace@example.org", "price": 1.5}
    shown = json.loads((await cli.run("dlq", "show", "low-1", "--json")).out)
    assert base64.b64decode(shown["original_payload"]) == BEFORE
    assert shown["edited_at"] == letter.edited_at.isoformat() if letter.edited_at else None
    assert "the payload as it was published: --json" in (await cli.run("dlq", "show", "low-1")).out


async def test_from_standard_input_and_a_file_without_a_replay(cli: Cli, jobs: JobService) -> None:
    said = await cli.run("dlq", "edit", "low-1", "-", "--no-replay", stdin='"from stdin"\n')
    assert (said.code, said.out, said.err) == (0, "", "low-1: edited\n")
    assert (await found(jobs)).payload == b'"from stdin"'
    (cli.folder / "new.json").write_bytes(b'\xef\xbb\xbf{"from": "a file"}')
    assert (await cli.run("dlq", "edit", "low-1", "@new.json", "--no-replay", "--json")).code == 0
    letter = await found(jobs)
    assert (letter.payload, letter.original_payload, letter.replayed_at) == (b'{"from": "a file"}', BEFORE, None)
    # What a shell makes of @<(a command) can be read once.
    piped = await cli.run("dlq", "edit", "low-1", "@/dev/stdin", "--no-replay", stdin='"from a pipe"')
    assert (piped.code, (await found(jobs)).payload) == (0, b'"from a pipe"')


async def test_without_a_payload_the_editor_opens_it_one_value_a_line(cli: Cli, jobs: JobService) -> None:
    ended = await cli.run(
        "dlq", "edit", "low-1", **editor(cli, 'cp "$2" seen.json; sed -i s/ada@/grace@/ "$2"; exit 0')
    )
    assert ended.code == 0, ended.err
    assert (cli.folder / "seen.json").read_text() == json.dumps(json.loads(BEFORE), indent=2) + "\n"
    letter = await found(jobs)
    assert letter.payload_json == {"to": "grace@example.org", "n": [1, 2]}
    assert letter.original_payload == BEFORE
    assert ended.err == f"low-1: edited, replayed as job replay-1-{letter.id}\n"
    assert drafts(cli) == []


@pytest.mark.parametrize(
    "payload", [b'{"price": 1.50, "price": 2}', b"not JSON at all \xff", b'{"n":1E400}', b"[" * 5000, b"1e2\n"]
)
async def test_what_would_not_come_back_as_it_was_is_opened_as_it_is(
    cli: Cli, jobs: JobService, payload: bytes
) -> None:
    await store(jobs, payload, "low-2")
    ended = await cli.run("dlq", "edit", "low-2", **editor(cli, 'cp "$2" seen.json; echo >> "$2"'))
    assert (cli.folder / "seen.json").read_bytes() == payload
    # An editor that ends the last line has changed nothing.
    assert (ended.code, ended.err) == (0, "nothing was changed, and the letter is not replayed\n")
    letter = await found(jobs, "low-2")
    assert (letter.payload, letter.edited_at, letter.replayed_at) == (payload, None, None)
    assert drafts(cli) == []


def kept(cli: Cli, ended: Ended) -> bytes:
    """What is in the file that the command says to have kept."""
    said = re.search(r"your text is kept in (\S+); fix it there, then run: (jsjobs dlq edit \S+ @(\S+))", ended.err)
    assert said, ended.err
    assert said[1] == said[3]
    assert drafts(cli) == [Path(said[1])]
    return Path(said[1]).read_bytes()


async def test_a_text_that_is_no_json_is_kept_andchanges_nothing(cli: Cli, jobs: JobService) -> None:
    ended = await cli.run("dlq", "edit", "low-1", **editor(cli, """printf '{\\n"to": oops}' > "$2" """))
    assert ended.code == 2
    assert "the edited payload is not JSON" in ended.err
    assert "line 2 column 7" in ended.err
    assert kept(cli, ended) == b'{\n"to": oops}'
    letter = await found(jobs)
    assert (letter.payload, letter.edited_at, letter.replayed_at) == (BEFORE, None, None)
    # What it says to do is what helps.
    (draft,) = drafts(cli)
    draft.write_text('{"to": "right"}')
    assert (await cli.run("dlq", "edit", str(letter.id), f"@{draft}")).code == 0
    assert (await found(jobs)).payload_json == {"to": "right"}


async def test_a_text_is_kept_where_the_letter_was_decided_or_edited_meanwhile(cli: Cli, jobs: JobService) -> None:
    letter = await found(jobs)
    for command, says in (
        (f"edit {letter.id} 5 --no-replay", "was edited by somebody else meanwhile"),
        (f"discard {letter.id}", "was discarded"),
    ):
        script = f'{cli.executable} dlq {command} && echo \'"mine"\' > "$2"'
        ended = await cli.run("dlq", "edit", "low-1", **editor(cli, script))
        assert ended.code == 1
        assert says in ended.err
        assert kept(cli, ended) == b'"mine"\n'
        drafts(cli)[0].unlink()
    assert (await found(jobs)).payload == b"5"


async def test_an_editor_that_fails_changes_nothing_and_what_it_wrote_is_kept(cli: Cli, jobs: JobService) -> None:
    ended = await cli.run("dlq", "edit", "low-1", **editor(cli, 'echo \'"mine"\' > "$2"; exit 3'))
    assert (ended.code, kept(cli, ended)) == (1, b'"mine"\n')
    assert "ended with exit code 3: nothing was changed" in ended.err
    drafts(cli)[0].unlink()
    ended = await cli.run("dlq", "edit", "low-1", **editor(cli, "exit 1"))
    assert (ended.code, drafts(cli)) == (1, [])
    gone = await cli.run("dlq", "edit", "low-1", **editor(cli, 'rm "$2"'))
    assert (gone.code, "cannot be read: No such file" in gone.err) == (1, True)
    assert (await found(jobs)).payload == BEFORE


async def test_an_edit_whose_replay_fails_is_stored_and_says_what_is_left_to_do(cli: Cli, jobs: JobService) -> None:
    ended = await cli.run("dlq", "edit", "low-1", "1", JSJOBS_NATS_URL="nats://127.0.0.1:9", JSJOBS_TIMEOUT="0.5")
    letter = await found(jobs)
    assert (ended.code, letter.payload, letter.replayed_at) == (1, b"1", None)
    assert "the new payload is stored, but not replayed: cannot reach NATS" in ended.err
    assert f"run `jsjobs dlq replay {letter.id}`" in ended.err
    assert (await cli.run("dlq", "replay", str(letter.id))).code == 0


async def test_a_begun_replay_refuses_it_and_a_finished_one_must_be_forced(cli: Cli, jobs: JobService) -> None:
    letter = await found(jobs)
    job_id = await jobs.dlq.claim_replay(letter.id)
    refused = await cli.run("dlq", "edit", "low-1", "1", "--force")
    assert (refused.code, f"is being replayed as job {job_id}" in refused.err) == (1, True)
    await jobs.dlq.mark_replayed(letter.id, job_id)
    refused = await cli.run("dlq", "edit", "low-1", "1", "--no-replay")
    assert (refused.code, "use force (--force) to continue anyway" in refused.err) == (1, True)
    assert (await found(jobs)).payload == BEFORE
    forced = await cli.run("dlq", "edit", "low-1", "1", "--force", "--priority", "high", "--json")
    assert json.loads(forced.out)["replayed_job_id"] == f"replay-2-{letter.id}"
    assert (await jobs.status(f"replay-2-{letter.id}")).priority == "high"


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["low-1", "oops"], 2, "the payload is not JSON"),
        (["low-1", ""], 2, "the payload is empty, it must be JSON"),
        (["low-1", "@none.json"], 2, "the payload cannot be read from none.json"),
        (["low-1", "-"], 2, "the payload on standard input is empty"),
        (["low-1", "NaN"], 2, "the payload is not JSON"),
        (["low-1"], 2, "no editor is set: set EDITOR, or give the payload"),
        (["low-9", "1"], 1, "no dead letter 'low-9'"),
        (["not an id", "1"], 1, "no dead letter 'not an id'"),
        (["low-1", "@large.json"], 2, "the job is too large to carry the id of a replay"),
        (["low-1", "1", "--priority", "urgent"], 2, "'urgent' is not one of"),
        (["low-1", "1", "--namespace", "elsewhere"], 1, "no dead letter 'low-1'"),
    ],
)
async def test_wrong_usechanges_nothing(cli: Cli, jobs: JobService, arguments: list[str], code: int, says: str) -> None:
    (cli.folder / "large.json").write_text(json.dumps("x" * 920_000))
    ended = await cli.run("dlq", "edit", *arguments, stdin="", EDITOR="", VISUAL="")
    assert ended.code == code
    assert says in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err
    letter = await found(jobs)
    assert (letter.payload, letter.edited_at, letter.replayed_at) == (BEFORE, None, None)


async def test_an_editor_that_cannot_be_started(cli: Cli, jobs: JobService) -> None:
    for name in ("no-such-editor", "'unclosed"):
        ended = await cli.run("dlq", "edit", "low-1", VISUAL=name, TMPDIR=str(cli.folder))
        assert (ended.code, "cannot be started" in ended.err) == (2, True)
    assert drafts(cli) == []
