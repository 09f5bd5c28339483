"""Every documented way to prove who one is, with the library and the command line; and what is said when it fails."""

import asyncio
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import nkeys
import pytest
from commands import commands
from credentials import Certificates, Operator, key, public
from secured import AUTH, apply, environment

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer, find_binary

SECRET = "s3cr3t-" + "x" * 8
Start = Callable[[str], str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a server with some configuration; its URL."""
    with ExitStack() as stack:

        def start(config: str, **environment: Path) -> str:
            for name, value in environment.items():
                monkeypatch.setenv(name, str(value))
            home = tmp_path / "nats"
            home.mkdir()
            (home / "tls.conf").write_text((AUTH / "tls.conf").read_text())
            return stack.enter_context(NatsServer(home, config=config)).url

        yield start


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


def settings(url: str, **given: object) -> JobService.Config:
    return JobService.Config(nats_url=url, queue_bytes=2**24, **given)


async def check(good: JobService.Config, *bad: tuple[JobService.Config, str]) -> None:
    """The good settings work; each of the bad ones ends in one line that matches, and bears no secret."""
    await apply(good)
    async with JobService(good) as jobs:
        job_id = await jobs.submit("t", 1)
    fine, *failed = await commands(
        (environment(good), ("status", job_id)), *((environment(config), ("status", job_id)) for config, _ in bad)
    )
    assert fine.code == 0, fine.err
    for end, (config, pattern) in zip(failed, bad, strict=True):
        with pytest.raises(JobService.Error) as raised:
            await JobService(config).connect()
        said = end.err.strip()
        assert end.code in {1, 2}, end
        assert said.count("\n") == 0, said
        # With TLS 1.3 a server that refuses a certificate is heard, or is gone already.
        assert said.startswith("error: ")
        assert raised.value.message[:40] in said
        assert re.search(pattern, said), said
        for secret in (SECRET, "wrong-one", "BEGIN", "SUA"):
            assert secret not in said
            assert secret not in repr(config)


REFUSED = r"^error: cannot reach NATS at (nats|tls)://127\.0\.0\.1:\d+: '?[Aa]uthorization [Vv]iolation"


async def test_user_and_password(start: Start) -> None:
    url = start(f"authorization {{ user: ada, password: {SECRET} }}")
    await check(
        settings(url, nats_user="ada", nats_password=SECRET),
        (settings(url, nats_user="ada", nats_password="wrong-one"), REFUSED),
        (settings(url), REFUSED),
        (settings(url.replace("//", "//ada:wrong-one@")), REFUSED),
    )
    async with JobService(settings(url.replace("//", f"//ada:{SECRET}@"))) as by_url:
        await by_url.submit("t", 1)


async def test_token(start: Start) -> None:
    url = start(f"authorization {{ token: {SECRET} }}")
    await check(
        settings(url, nats_token=SECRET),
        (settings(url, nats_token="wrong-one"), REFUSED),
        (settings(url.replace("//", "//wrong-one@")), REFUSED),
    )


async def test_nkey(start: Start, tmp_path: Path) -> None:
    known, unknown = key(nkeys.PREFIX_BYTE_USER), key(nkeys.PREFIX_BYTE_USER)
    files = {}
    for name, content in (
        ("known", known.seed),
        ("unknown", unknown.seed),
        ("broken", b"SUA-wrong-one"),
        ("empty", b""),
    ):
        files[name] = tmp_path / name
        files[name].write_bytes(content)
    url = start(f"authorization {{ users: [ {{ nkey: {public(known)} }} ] }}")
    await check(
        settings(url, nats_nkey=files["known"]),
        (settings(url, nats_nkey=files["unknown"]), REFUSED),
        (settings(url, nats_nkey=files["broken"]), "nats_nkey"),
        (settings(url, nats_nkey=files["empty"]), "nats_nkey"),
        (settings(url, nats_nkey=tmp_path / "none"), "nats_nkey: there is no such file"),
    )


async def test_credentials_file_of_an_operators_account(start: Start, tmp_path: Path) -> None:
    operator, stranger = Operator.make(), Operator.make()
    broken, cut = tmp_path / "broken.creds", tmp_path / "cut.creds"
    broken.write_text("SUA-wrong-one")
    url = start(operator.config)
    good = operator.creds(tmp_path / "good.creds")
    cut.write_text(good.read_text()[:-90])
    rights = {
        name: {"allow": re.findall(r'"([^"]+)"', line)}
        for name, line in re.findall(
            r"^(publish|subscribe): \[(.+?)\]$", (AUTH / "publisher.conf").read_text(), re.MULTILINE | re.DOTALL
        )
    }
    few = operator.creds(tmp_path / "few.creds", pub=rights["publish"], sub=rights["subscribe"])
    await check(
        settings(url, nats_creds=good),
        (settings(url, nats_creds=stranger.creds(tmp_path / "stranger.creds")), REFUSED),
        (settings(url, nats_creds=broken), "nats_creds"),
        (settings(url, nats_creds=cut), "nats_creds"),
        (settings(url, nats_creds=tmp_path / "none"), "nats_creds: there is no such file"),
        (settings(url), REFUSED),
        (settings(url, nats_creds=few), "set JSJOBS_NATS_INBOX_PREFIX"),
    )
    async with JobService(settings(url, nats_creds=few, nats_inbox_prefix="_INBOX.publisher")) as publisher:
        job_id = await publisher.submit("t", 1)
        with pytest.raises(JobService.Error, match="Permissions Violation"):
            await publisher.status(job_id)


async def test_a_server_that_proves_who_it_is(start: Start, certificates: Certificates) -> None:
    cert, private = certificates.server
    url = start(f'tls {{ cert_file: "{cert}", key_file: "{private}" }}')
    tls = url.replace("nats://", "tls://")
    await check(
        settings(tls, nats_tls_ca=certificates.ca),
        (settings(tls, nats_tls_ca=certificates.other_ca), "certificate verify failed"),
        (settings(tls), "certificate verify failed"),
        (settings(url), "certificate verify failed"),
        (settings(tls, nats_tls_ca=private), "the TLS files cannot be used"),
    )
    await apply(settings(url, nats_tls_ca=certificates.ca))


async def test_a_server_by_another_name(start: Start, certificates: Certificates) -> None:
    cert, private = certificates.elsewhere
    url = start(f'tls {{ cert_file: "{cert}", key_file: "{private}" }}')
    with pytest.raises(JobService.Error, match="certificate verify failed: IP address mismatch"):
        await JobService(settings(url, nats_tls_ca=certificates.ca)).connect()


@pytest.mark.parametrize("asked", ["by the URL", "by a setting"])
async def test_a_server_that_speaks_plainly_gets_no_password(certificates: Certificates, asked: str) -> None:
    """One that has no TLS, or somebody in between who takes its offer away."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"x","version":"2.15.1","headers":true,"max_payload":1048576}\r\n')
        while more := await reader.read(4096):
            heard.append(more)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        place = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        login = {"nats_user": "ada", "nats_password": SECRET}
        plainly = settings(f"nats://{place}", **login, timeout=2)
        config = {
            "by the URL": settings(f"tls://{place}", **login),
            "by a setting": settings(f"nats://{place}", **login, nats_tls_ca=certificates.ca),
        }[asked]
        with pytest.raises(JobService.Error, match="TLS is required here"):
            await JobService(config).connect()
        assert b"".join(heard) == b""
        # Without being asked for TLS it is told all.
        with pytest.raises(JobService.Error):
            await JobService(plainly).connect()
        assert SECRET.encode() in b"".join(heard)


async def test_both_prove_who_they_are(start: Start, certificates: Certificates) -> None:
    cert, private = certificates.server
    files = {"JSJOBS_TLS_SERVER_CERT": cert, "JSJOBS_TLS_SERVER_KEY": private, "JSJOBS_TLS_SERVER_CA": certificates.ca}
    url = start('include "tls.conf"', **files)
    ca, (own, own_key), (other, other_key) = certificates.ca, certificates.client, certificates.unknown
    refused = r"(?i)alert.*(certificate|unknown ca)|it may require a client certificate"
    await check(
        settings(url, nats_tls_ca=ca, nats_tls_cert=own, nats_tls_key=own_key),
        (settings(url, nats_tls_ca=ca, nats_tls_cert=other, nats_tls_key=other_key), refused),
        (settings(url, nats_tls_ca=ca), refused),
        (settings(url, nats_tls_ca=ca, nats_tls_cert=own, nats_tls_key=other_key), "the TLS files cannot be used"),
        (settings(url, nats_tls_ca=ca, nats_tls_cert=own), "the TLS files cannot be used"),
    )


async def test_a_credentials_file_that_is_exchanged_for_a_broken_one(tmp_path: Path) -> None:
    """nats-py would read it for ever, and with it the whole process would stand still."""
    operator = Operator.make()
    creds = operator.creds(tmp_path / "user.creds")
    good = creds.read_text()
    with NatsServer(tmp_path / "nats", config=operator.config) as server:
        config = settings(server.url, nats_creds=creds)
        await apply(config)
        async with JobService(config) as jobs:
            creds.write_text("exchanged")
            server.stop()
            server.start()
            with pytest.raises(JobService.Error):
                await asyncio.wait_for(jobs.submit("t", 1), 15)
            creds.write_text(good)

            async def is_back() -> bool:
                return bool(await jobs.submit("t", 1))

            await eventually(is_back)


async def test_certificates_that_are_replaced_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority and both sides' certificates run out: who is connected goes on with the new ones."""
    made = Certificates(tmp_path)
    (cert, private), (own, own_key) = made.server, made.client
    for name, file in (("CERT", cert), ("KEY", private), ("CA", made.ca)):
        monkeypatch.setenv(f"JSJOBS_TLS_SERVER_{name}", str(file))
    home = tmp_path / "nats"
    home.mkdir()
    (home / "tls.conf").write_text((AUTH / "tls.conf").read_text())
    with NatsServer(home, config='include "tls.conf"') as server:
        config = settings(server.url, nats_tls_ca=made.ca, nats_tls_cert=own, nats_tls_key=own_key)
        await apply(config)
        async with JobService(config) as jobs:
            server.stop()
            await eventually(lambda: not jobs.connection.is_connected)
            old = made.ca.read_bytes()
            Certificates(tmp_path)
            assert made.ca.read_bytes() != old
            replaced = own_key.read_bytes()
            own_key.write_text("half written")
            server.start()
            with pytest.raises(JobService.Error, match="no connection to NATS"):
                await jobs.submit("t", 1)
            own_key.write_bytes(replaced)

            async def is_back() -> bool:
                return bool(await jobs.submit("t", 1))

            assert await eventually(is_back)


async def test_certificates_that_the_server_reads_anew_without_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`nats-server --signal reload`: who is connected stays so, who comes sees the new ones; broken ones change nothing."""
    made = Certificates(tmp_path)
    (cert, private), (own, own_key) = made.server, made.client
    for name, file in (("CERT", cert), ("KEY", private), ("CA", made.ca)):
        monkeypatch.setenv(f"JSJOBS_TLS_SERVER_{name}", str(file))
    home = tmp_path / "nats"
    home.mkdir()
    (home / "tls.conf").write_text((AUTH / "tls.conf").read_text())
    with NatsServer(home, config='include "tls.conf"') as server:
        config = settings(server.url, nats_tls_ca=made.ca, nats_tls_cert=own, nats_tls_key=own_key)
        await apply(config)
        pid = (home / "nats.pid").read_text()

        def reload() -> None:
            subprocess.run([find_binary(), "--signal", f"reload={pid}"], check=True, timeout=20)

        async with JobService(config) as connected:
            old = tmp_path / "old-ca.pem"
            old.write_bytes(made.ca.read_bytes())
            whole = private.read_bytes()
            private.write_text("half written")
            reload()
            await eventually(lambda: "Failed to reload server configuration" in server.log.read_text())
            private.write_bytes(whole)
            async with JobService(config) as jobs:
                await jobs.submit("t", 1)
            Certificates(tmp_path)
            reload()
            await eventually(lambda: "Reloaded: tls = enabled" in server.log.read_text())
            async with JobService(config) as jobs:
                await jobs.submit("t", 2)
            with pytest.raises(JobService.Error, match="certificate verify failed"):
                await JobService(config.model_copy(update={"nats_tls_ca": old})).connect()
            assert connected.connection.is_connected
            await connected.submit("t", 3)
            assert server.log.read_text().count("Reloaded: tls = enabled") == 1


PEM = "-----BEGIN PRIVATE KEY-----\n" + "MC4CAQAwBQYDK2VwBCIEIDpl4nted\n" * 40 + "-----END PRIVATE KEY-----\n"


@pytest.mark.parametrize("what", ["nats_nkey", "nats_creds", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"])
@pytest.mark.parametrize("pasted", ["SUAPL4NTED" + "A" * 48, "eyJpl4nted." * 40, PEM], ids=["seed", "token", "pem"])
async def test_a_secret_in_the_place_of_a_path_is_not_repeated(what: str, pasted: str) -> None:
    config = JobService.Config(**{"nats_url": "nats://127.0.0.1:1", what: pasted})
    assert "pl4nted" not in repr(config).lower()
    [end] = await commands(
        (
            environment(JobService.Config(nats_url="nats://127.0.0.1:1"), **{f"JSJOBS_{what.upper()}": pasted}),
            ("queues", "-v"),
        )
    )
    with pytest.raises(JobService.Error, match=f"{what}: there is no such file .*give the path of a file") as raised:
        await JobService(config).connect()
    assert end.code == 2
    for said in (end.out + end.err, f"{raised.value!r} {raised.value}"):
        assert "pl4nted" not in said.lower()
        assert f"{what}: there is no such file" in said
