"""A check that hangs is told as such, and holds up neither the others nor the doctor."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from jsjobs import JobService
from jsjobs.doctor import Finding, Severity, examination, examine
from jsjobs.doctor.patient import Patient
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


@pytest.mark.parametrize("group", ["_OF_SERVERS", "_OF_STREAMS", "_OF_SHARDS"])
async def test_a_check_that_hangs_is_told_beside_what_the_others_found(
    config: JobService.Config, deploy: Deploy, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    async def hangs(_: Patient) -> AsyncIterator[Finding]:
        yield Finding("hangs", Severity.NOTE, "this much was seen", "", "nothing")
        await asyncio.sleep(3600)

    await deploy(config)
    others = await examined(config)
    checks = getattr(examination, group)
    monkeypatch.setattr(examination, group, (examination._Check("hangs", hangs, "all is well"), *checks))
    monkeypatch.setattr(examination, "_WITHIN", 2.0)
    found = await examined(config)
    seen, told = found.pop("hangs")
    assert seen.what == "this much was seen"
    assert (told.severity, told.what) == (Severity.WARNING, "this could not be looked at: no answer within 2 s")
    assert told.remedy
    assert found.keys() == others.keys()


async def test_a_database_that_does_not_answer_is_told_in_time(
    settings_of: Callable[..., JobService.Config], deploy: Deploy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "_CONNECT_TIMEOUT", 0.5)
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
    assert "gave no answer in time" in told.what
