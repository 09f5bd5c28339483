"""What a header can do that no right can keep off."""

import json
from collections.abc import Callable

import pytest
from secured import plain_client

from jsjobs import JobService


@pytest.mark.parametrize("user", ["worker", "service", "router", "operator"])
async def test_who_writes_states_can_empty_them_with_a_rollup(
    as_user: Callable[..., JobService.Config], user: str
) -> None:
    """The page says so: rights are for subjects, not for headers, and the server keeps rollups on for delete markers."""
    async with (
        plain_client(as_user("operator").nats_url, "root") as root,
        plain_client(root.connected_url.geturl(), user) as one,
    ):
        assert (await root.jetstream().stream_info("KV_jobs")).state.messages > 1
        await one.request("$KV.jobs.normal-1", b"1", headers={"Nats-Rollup": "all"})
        assert (await root.jetstream().stream_info("KV_jobs")).state.messages == 1
        config = json.loads((await root.request("$JS.API.STREAM.INFO.KV_jobs")).data)["config"]
        config["allow_rollup_hdrs"] = False
        updated = await root.request("$JS.API.STREAM.UPDATE.KV_jobs", json.dumps(config).encode())
        assert json.loads(updated.data)["config"]["allow_rollup_hdrs"] is True
