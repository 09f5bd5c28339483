"""Lists of the server."""

from typing import Any

import pytest

from jsjobs.jetstream.api import consumers
from jsjobs.jetstream.api.errors import IncompleteList
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.model.job import Priority


async def test_a_list_that_a_part_of_the_cluster_did_not_tell_of_is_not_taken_for_the_whole(
    connection: Connection, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever took it for that would leave shards that are there, or make them again."""
    assert len(await live_shards(connection, names, (Priority.HIGH,))) == 3
    find = consumers.find

    async def partly(*arguments: Any, **named: Any) -> Any:
        page = await find(*arguments, **named)
        assert page is not None
        return {**page, "consumers": page["consumers"][1:], "missing": [page["consumers"][0]["name"]]}

    monkeypatch.setattr(consumers, "find", partly)
    with pytest.raises(IncompleteList, match="did not report 1 consumers"):
        await live_shards(connection, names, (Priority.HIGH,))


async def test_a_list_that_goes_over_several_pages_is_read_to_its_end(
    connection: Connection, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = consumers.find

    async def by_one(_: Connection, endpoint: str, body: dict[str, Any]) -> Any:
        page = await find(connection, endpoint, body)
        assert page is not None
        return {**page, "consumers": (page["consumers"] or [])[:1], "limit": 1}

    monkeypatch.setattr(consumers, "find", by_one)
    assert len(await live_shards(connection, names, (Priority.HIGH,))) == 3
