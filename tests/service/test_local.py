"""Which servers a program without settings finds."""

from typing import Any

import pytest

from jsjobs import local
from jsjobs.embedded.discovery import Endpoints

HERE = Endpoints("nats://127.0.0.1:1111", "postgresql://here")
TOLD = {"namespace": "shop", "pools": {"low": 3}, "retry": {"max_retries": 2}}
SERVERS = {"nats_url": HERE.nats_url, "database_url": HERE.database_url}
WITH_SETTINGS = Endpoints(HERE.nats_url, HERE.database_url, {**TOLD, "nats_url": "nats://another", "grace": 1})


@pytest.mark.parametrize(
    ("environment", "found", "settings"),
    [
        ({}, HERE, {"nats_url": HERE.nats_url, "database_url": HERE.database_url}),
        ({}, None, {}),
        ({"NATS_URL": "nats://elsewhere", "DATABASE_URL": "postgresql://elsewhere"}, HERE, {}),
        # Dead letters of another server do not belong here; of this one, named outright, they do.
        ({"NATS_URL": "nats://elsewhere"}, HERE, {}),
        ({"NATS_URL": "nats://127.0.0.1:1111"}, HERE, {"database_url": HERE.database_url}),
        ({"NATS_URL": "nats://elsewhere"}, Endpoints(None, "postgresql://here"), {"database_url": "postgresql://here"}),
        ({"JSJOBS_DATABASE_URL": "postgresql://elsewhere"}, HERE, {"nats_url": HERE.nats_url}),
        # What describes the namespace goes with its server.
        ({}, WITH_SETTINGS, {**SERVERS, **TOLD}),
        (
            {"JSJOBS_POOLS": '{"low": 1}', "jsjobs_namespace": "other"},
            WITH_SETTINGS,
            {**SERVERS, "retry": TOLD["retry"]},
        ),
        ({"NATS_URL": "nats://elsewhere"}, WITH_SETTINGS, {}),
        ({"NATS_URL": ""}, HERE, {"nats_url": HERE.nats_url, "database_url": HERE.database_url}),
    ],
)
def test_what_the_environment_names_counts_then_the_folder_s_servers(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: Endpoints | None, settings: dict[str, Any]
) -> None:
    for name in (*local.NATS_VARIABLES, *local.DATABASE_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(local, "discover", lambda _: found)
    assert local.local_servers() == settings
    assert local.here().namespace == settings.get("namespace", "other" if "jsjobs_namespace" in environment else "jobs")
    assert local.here().nats_url == settings.get("nats_url", environment.get("NATS_URL") or "nats://127.0.0.1:4222")
