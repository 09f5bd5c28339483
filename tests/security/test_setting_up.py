"""What docs/security.md says of a server's configuration: its passwords, further users and tenants, its disk."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from credentials import key, public
from nkeys import PREFIX_BYTE_USER
from secured import (
    AUTH,
    ROOT,
    USERS,
    apply,
    config_of,
    environment,
    password,
    plain_client,
    secured,
    server_config,
    wire,
)

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer, find_binary
from jsjobs.rpc import Rpc

Settings = Callable[..., JobService.Config]
HASHED = "$2a$05$abcdefghijklmnopqrstuuXGV3pfxvVDVuKFurZHSZjuPDBppv48C"
"""The password of `publisher`, as `nats server passwd` makes it."""
SECRET = "a-payload-that-somebody-finds"


@pytest.mark.parametrize("missing", [None, *USERS])
def test_the_server_does_not_start_while_a_password_is_missing(tmp_path: Path, missing: str | None) -> None:
    shutil.copytree(AUTH, tmp_path, dirs_exist_ok=True)
    given = {f"JSJOBS_{user.upper()}_PASSWORD": password(user) for user in USERS if user != missing}
    checked = subprocess.run(
        [find_binary(), "-t", "-c", tmp_path / "server.conf"],
        env={**environment(), **given},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (checked.returncode == 0) is (missing is None), checked.stderr
    assert missing is None or f"JSJOBS_{missing.upper()}_PASSWORD" in checked.stderr


async def test_a_user_has_a_hash_or_an_nkey(tmp_path: Path) -> None:
    seed = key(PREFIX_BYTE_USER)
    text = server_config()
    for user, login in (
        ("publisher", f'user: publisher, password: "{HASHED}"'),
        ("viewer", f"nkey: {public(seed)}"),
    ):
        plain = f"user: {user}, password: $JSJOBS_{user.upper()}_PASSWORD"
        assert text.count(plain) == 1
        text = text.replace(plain, login)
    (tmp_path / "seed").write_bytes(seed.seed)
    with secured(tmp_path / "nats", text) as server:
        await apply(config_of(server.url, "operator"))
        looks = config_of(server.url, "viewer", nats_user=None, nats_password=None, nats_nkey=tmp_path / "seed")
        async with JobService(config_of(server.url, "publisher")) as publisher, JobService(looks) as viewer:
            job_id = await publisher.submit("echo", 1)
            assert (await viewer.status(job_id)).status == "queued"
            with pytest.raises(JobService.Error, match="Permissions Violation"):
                await viewer.submit("echo", 1)
        with pytest.raises(JobService.Error, match="Authorization Violation"):
            await JobService(config_of(server.url, "publisher", nats_password=HASHED)).connect()


async def test_two_users_of_one_role_hear_each_other_unless_each_has_a_file_of_its_own(tmp_path: Path) -> None:
    files = tmp_path / "files"
    shutil.copytree(AUTH, files)
    own = (files / "viewer.conf").read_text().replace("_INBOX.viewer.", "_INBOX.apart.")
    (files / "apart.conf").write_text(own)
    alike, apart = (
        f'{{ user: {user}, password: "{password(user)}", permissions {{ include "{file}" }} }}'
        for user, file in (("alike", "viewer.conf"), ("apart", "apart.conf"))
    )
    text = server_config().replace("    users: [ { user: viewer", f"    users: [ {alike}, {apart}, {{ user: viewer", 1)
    with secured(tmp_path / "nats", text, files) as server:
        await apply(config_of(server.url, "operator"))
        async with JobService(config_of(server.url, "operator")) as operator:
            job_id = await operator.submit("echo", SECRET)
        async with wire(server.url, "alike") as spy, wire(server.url, "apart") as other:
            assert not await spy.listen("_INBOX.viewer.>")
            for user, is_heard in (("viewer", True), ("apart", False)):
                config = config_of(server.url, user)
                async with JobService(config) as viewer:
                    await viewer.status(job_id)
                assert ("MSG _INBOX" in await spy.heard()) is is_heard
            assert await other.listen("_INBOX.viewer.>")


async def test_a_further_tenant(tmp_path: Path) -> None:
    """As the page says: two files with its name, its account, a line to the exports."""
    files = tmp_path / "files"
    shutil.copytree(AUTH, files)
    for suffix in ("", "-imports"):
        tenant = (files / f"tenant{suffix}.conf").read_text()
        (files / f"beta{suffix}.conf").write_text(tenant.replace("acme", "beta").replace("ACME", "BETA"))
    exports = (files / "service-imports.conf").read_text()
    [line] = re.findall(r"^.*tenant\.acme\.submit.*\n", exports, re.MULTILINE)
    beta = line.replace("acme", "beta").replace("ACME", "BETA")
    (files / "service-imports.conf").write_text(exports.replace(line, line + beta))
    text = server_config()
    [account] = re.findall(r"^  ACME \{\n.*?^  \}\n", text, re.MULTILINE | re.DOTALL)
    made = account.replace("ACME", "BETA").replace("user: acme", "user: beta").replace("tenant", "beta")
    made = made.replace("$JSJOBS_BETA_PASSWORD", f'"{password("beta")}"')
    with secured(tmp_path / "nats", text.replace(account, account + made), files) as server:
        await apply(config_of(server.url, "operator"))
        service = JobService(config_of(server.url, "service"))
        async with (
            service,
            Rpc(service),
            plain_client(server.url, "beta") as client,
            wire(server.url, "beta") as plain,
        ):
            answer = await client.request("jobs.rpc.tenant.beta.submit", b'{"type": "echo"}', timeout=10)
            assert (await service.status(json.loads(answer.data)["job_id"])).tenant == "beta"
            assert await plain.is_refused("jobs.rpc.tenant.acme.submit")
            assert await plain.is_refused("jobs.rpc.submit")


@pytest.mark.parametrize("is_encrypted", [False, True])
async def test_payloads_lie_readable_on_the_disk_unless_it_is_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_encrypted: bool
) -> None:
    [cipher] = re.findall(r"`(jetstream { cipher: [^`]+})`", (ROOT / "docs" / "security.md").read_text())
    monkeypatch.setenv("KEY", "k" * 32)
    with NatsServer(tmp_path / "nats", config=cipher if is_encrypted else "") as server:
        config = JobService.Config(nats_url=server.url, queue_bytes=2**24)
        await apply(config)
        async with JobService(config) as jobs:
            await jobs.submit("echo", SECRET)
        server.stop()
        blocks = [file for file in (tmp_path / "nats").rglob("*.blk") if file.stat().st_size]
        assert blocks
        assert any(SECRET.encode() in file.read_bytes() for file in blocks) is not is_encrypted
