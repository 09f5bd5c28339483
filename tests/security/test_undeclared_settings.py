"""What an operator turned on by hand lets publishers empty a stream, or readers read it: it is named and taken back."""

import json
from collections.abc import Callable

import pytest
from commands import commands
from secured import environment, plain_client

from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

Settings = Callable[..., JobService.Config]


@pytest.mark.parametrize(
    ("stream", "setting"),
    [
        ("JOBS_LOW", "allow_rollup_hdrs"),
        ("JOBS_DEAD", "allow_rollup_hdrs"),
        ("JOBS_PROGRESS", "allow_rollup_hdrs"),
        ("JOBS_DEAD", "allow_direct"),
        ("JOBS_LOW", "allow_batched"),
    ],
)
async def test_what_was_turned_on_by_hand_is_named_and_turned_off(as_user: Settings, stream: str, setting: str) -> None:
    config = as_user("operator")
    async with JobService(config) as operator, plain_client(config.nats_url, "publisher") as hostile:
        was = (await call(operator.connection, f"STREAM.INFO.{stream}"))["config"]
        await call(operator.connection, f"STREAM.UPDATE.{stream}", {**was, setting: True})
        assert (await call(operator.connection, f"STREAM.INFO.{stream}"))["config"][setting] is True
        [examined] = await commands((environment(config), ("doctor", "--json")))
        findings = [one for one in json.loads(examined.out)["findings"] if one["where"] == stream]
        assert any(f"{setting} is true" in one["what"] for one in findings), findings
        await TopologyReconciler(operator.connection, Names("jobs"), config).apply()
        assert not (await call(operator.connection, f"STREAM.INFO.{stream}"))["config"].get(setting)
        if (stream, setting) == ("JOBS_LOW", "allow_rollup_hdrs"):
            await operator.submit("echo", [1, 2], priority="low", entity="e")
            answer = await hostile.request("jobs.low.e.echo", b"3", headers={"Nats-Rollup": "all"}, timeout=5)
            assert "error" in json.loads(answer.data)
            assert (await call(operator.connection, "STREAM.INFO.JOBS_LOW"))["state"]["messages"] == 2
