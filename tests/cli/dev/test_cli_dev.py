import asyncio
import contextlib
import json
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest
from cli_process import Cli

from facts import eventually
from jsjobs.embedded.home import LocalServers


@pytest.fixture
async def folder(bare_cli: Cli) -> AsyncIterator[Path]:
    """Where `jsjobs dev` runs; its data, which stay when it ends, are deleted."""
    yield bare_cli.folder
    await bare_cli.close()
    await asyncio.to_thread(LocalServers(bare_cli.folder).remove)


async def test_dev_serves_its_folder_and_leaves_nothing_running(bare_cli: Cli, folder: Path) -> None:
    dev = await bare_cli.start("dev", "app:jobs", "--nats-port", "0")
    await dev.says("worker and router ready: namespace jobs")
    below = folder / "deep" / "below"
    below.mkdir(parents=True)
    done = await bare_cli.run("submit", "steps", "2", "--wait", "--json", folder=below)
    assert done.code == 0, done.err
    status = await bare_cli.run("status", json.loads(done.out)["job_id"])
    assert "complete" in status.out
    failed = await bare_cli.run("submit", "fail", "1", "--max-attempts", "1", "--wait")
    assert failed.code == 1
    second = await bare_cli.run("dev", "--nats-port", "0")
    assert second.code == 1
    assert "already running" in second.err
    dev.signal(signal.SIGTERM)
    ended = await dev.ends()
    assert ended.code == 0, ended.err
    assert f"stopped; the data is kept in {folder / '.jsjobs'}" in ended.err.splitlines()[-1]
    assert working_below(folder) == []
    gone = await bare_cli.run("status", "normal-1", JSJOBS_TIMEOUT="0.3")
    assert "start one with `jsjobs dev`" in gone.err

    # Data stay, and Ctrl-C in the middle of a start leaves nothing behind either.
    again = await bare_cli.start("dev", "--nats-port", "0")
    await again.says("Postgres")
    again.signal(signal.SIGINT)
    assert (await again.ends()).code == 0
    assert working_below(folder) == []


def working_below(folder: Path) -> list[str]:
    """Commands of the processes that this folder's servers would be."""
    commands = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    marks = [str(folder)]
    if (memo := folder / ".jsjobs" / "postgres.folder").exists():
        marks.append(memo.read_text())
    return [command for command in commands if any(mark in command for mark in marks)]


async def test_a_dev_that_is_killed_leaves_nothing_running_and_the_next_has_its_data(
    bare_cli: Cli, folder: Path
) -> None:
    dev = await bare_cli.start("dev", "app:jobs", "--nats-port", "0")
    await dev.says("worker and router ready: namespace jobs")
    done = await bare_cli.run("submit", "echo", "1", "--wait", "--json")
    assert done.code == 0, done.err
    failed = await bare_cli.run("submit", "fail", "1", "--max-attempts", "1", "--wait")
    assert failed.code == 1

    async def is_routed() -> bool:
        return len(json.loads((await bare_cli.run("dlq", "list", "--json")).out)) == 1

    await eventually(is_routed)
    dev.signal(signal.SIGKILL)
    await dev.ends()
    await eventually(lambda: working_below(folder) == [])
    dev = await bare_cli.start("dev", "app:jobs", "--nats-port", "0")
    await dev.says("worker and router ready: namespace jobs")
    status = await bare_cli.run("status", json.loads(done.out)["job_id"])
    assert "complete" in status.out
    assert await is_routed()
    dev.interrupt()
    assert (await dev.ends()).code == 0


async def test_servers_that_the_environment_names_are_not_started(bare_cli: Cli, nats_server, namespace: str) -> None:
    bare_cli.env |= {"NATS_URL": nats_server.url, "DATABASE_URL": "postgresql://nobody:secret@127.0.0.1:9/none"}
    dev = await bare_cli.run("dev", "app:jobs")
    assert dev.code == 1
    assert dev.err.splitlines()[-1].startswith("error: Postgres at 127.0.0.1:9/none is not available")
    assert "secret" not in dev.err
    assert not (bare_cli.folder / ".jsjobs").exists()


async def test_commands_in_the_folder_of_dev_know_the_settings_of_its_application(bare_cli: Cli, folder: Path) -> None:
    bare_cli.env["JSJOBS_QUEUE_BYTES"] = str(2**26)
    file = folder / "app.py"
    config = 'JobService.Config(nats_url=os.environ["JSJOBS_NATS_URL"], namespace="shop", pools={"normal": 5})'
    file.write_text("import os\n" + file.read_text().replace("JobService()", f"JobService({config})"))
    dev = await bare_cli.start("dev", "app:jobs", "--nats-port", "0")
    await dev.says("ready: namespace shop")
    del bare_cli.env["JSJOBS_QUEUE_BYTES"]  # another terminal
    done = await bare_cli.run("submit", "echo", "1", "--wait")
    assert (done.code, done.out.strip()) == (0, "1"), done.err
    for command in (["streams", "plan"], ["doctor"]):
        told = await bare_cli.run(*command)
        assert "the default would be" not in told.out + told.err
        assert "namespace shop" in told.out + told.err or command == ["streams", "plan"]
    shown = json.loads((await bare_cli.run("streams", "show", "--json")).out)["shards"]
    assert len([shard for shard in shown if shard["name"].startswith("normal-1x5")]) == 5
    dev.interrupt()
    assert (await dev.ends()).code == 0


async def test_dev_takes_the_standard_port_or_says_that_it_has_another(bare_cli: Cli, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # somebody else has it already
            stack.enter_context(socket.create_server(("127.0.0.1", 4222)))
        dev = await bare_cli.start("dev")
        await dev.says("port 4222 is taken by another process, so NATS uses another one\n")
        await dev.says("for plain NATS clients: export NATS_URL=nats://127.0.0.1:")
        dev.interrupt()
        assert (await dev.ends()).code == 0


async def test_dev_listens_on_the_port_that_it_is_given(bare_cli: Cli, folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = await bare_cli.run("dev", "--nats-port", str(port))
    assert refused.code == 1
    assert refused.err.splitlines()[-1] == f"error: port {port} of 127.0.0.1 is taken by another process"
    dev = await bare_cli.start("dev", "--nats-port", str(port))
    await dev.says(f"NATS      nats://127.0.0.1:{port}\n")
    dev.interrupt()
    assert (await dev.ends()).code == 0
    other = await bare_cli.refusal("dev", "--nats-port", str(port), "--nats-url", "nats://127.0.0.1:9")
    assert other == (2, "--nats-port is for the server that dev starts, but NATS_URL or --nats-url names another one")


@pytest.mark.long
async def test_another_shard_count_is_brought_about_by_the_worker_that_dev_runs(bare_cli: Cli, folder: Path) -> None:
    """The change waits for jobs of the old shards, and nobody but the worker that starts after it can end those."""
    dev = await bare_cli.start("dev", "--nats-port", "0")
    await dev.says("router ready")
    before = (await bare_cli.run("submit", "echo", "1", "--entity", "e")).out.strip()
    dev.interrupt()
    assert (await dev.ends()).code == 0
    dev = await bare_cli.start("dev", "app:jobs", "--nats-port", "0", JSJOBS_SCALE="2")
    await dev.says("worker and router ready")
    after = (await bare_cli.run("submit", "echo", "2", "--entity", "e")).out.strip()
    for job_id, result in ((before, "1"), (after, "2")):
        ended = await bare_cli.run("result", job_id)
        assert (ended.code, ended.out.strip()) == (0, result), ended.err
    shards = json.loads((await bare_cli.run("streams", "show", "--json")).out)["shards"]
    assert {shard["name"] for shard in shards if shard["name"].startswith("normal")} == {
        f"normal-2x4-{number}" for number in range(4)
    }
    dev.interrupt()
    assert (await dev.ends()).code == 0
