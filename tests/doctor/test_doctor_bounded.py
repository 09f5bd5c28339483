"""A check that hangs is told as such, and holds up neither the others nor the doctor."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from jsjobs import JobService
from jsjobs.doctor import Finding, Severity, examine, runner
from jsjobs.doctor.deployment import Deployment
from jsjobs.postgres import database as database_module

Deploy = Callable[[JobService.Config], Awaitable[None]]


async def examined(config: JobService.Config) -> dict[str, list[Finding]]:
    """What the doctor found, by check."""
    examining = asyncio.ensure_future(examine(config, environ={}, known_variables=()))
    await asyncio.wait({examining}, timeout=20)
    assert examining.done(), "the doctor hangs"
    found: dict[str, list[Finding]] = {}
    for finding in await examining:
        found.setdefault(finding.check, []).append(finding)
    return found


@pytest.mark.parametrize("group", ["OF_SERVERS", "OF_STREAMS", "OF_SHARDS"])
async def test_a_check_that_hangs_is_told_beside_what_the_others_found(
    config: JobService.Config, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    async def hangs(_: Deployment) -> AsyncIterator[Finding]:
        yield Finding("hangs", Severity.NOTE, "this much was seen", "", "nothing")
        await asyncio.sleep(3600)

    await deploy(config)
    others = await examined(config)
    checks = getattr(runner, group)
    monkeypatch.setattr(runner, group, (runner.Check("hangs", hangs, "all is well"), *checks))
    monkeypatch.setattr(runner, "WITHIN", 2.0)
    found = await examined(config)
    seen, told = found.pop("hangs")
    assert seen.what == "this much was seen"
    assert (told.severity, told.what) == (Severity.WARNING, "this could not be checked: no answer within 2 s")
    assert told.remedy
    assert found.keys() == others.keys()


async def test_a_database_that_does_not_answer_is_told_in_time(
    settings_of: Callable[..., JobService.Config], deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "CONNECT_TIMEOUT", 0.5)
    asked = list[asyncio.StreamWriter]()

    async def listen(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(writer)  # and says nothing

    server = await asyncio.start_server(listen, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    config = settings_of(database_url=f"postgresql://nobody@127.0.0.1:{port}/db")
    await deploy(config)
    async with server:
        [told] = (await examined(config))["database"]
        for writer in asked:
            writer.transport.abort()
    assert asked
    assert told.severity is Severity.PROBLEM
    assert "did not answer in time" in told.what
