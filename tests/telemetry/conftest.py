from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from jsjobs import JobService


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def telemetry_apps(
    config: JobService.Config, deploy: Callable[[JobService.Config], Awaitable[None]], receiver: Receiver
) -> AsyncIterator[TelemetryApps]:
    """Applications that export to the receiver; the streams exist."""
    await deploy(config)
    apps = TelemetryApps(
        config,
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_METRIC_EXPORT_INTERVAL="200",
    )
    yield apps
    await apps.close()
