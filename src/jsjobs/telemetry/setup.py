"""Set up telemetry where it is on.

The decision imports nothing of OpenTelemetry: the other modules of this package are imported only where it is on.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.telemetry")

SIGNALS = ("traces", "metrics")
_KNOWN = {"otlp", "console", "none"}


def find_telemetry(namespace: str) -> Telemetry | None:
    """Return the telemetry of this process for a namespace; None while it is off.

    It is on if the application has installed a tracer or meter provider by now, or if `OTEL_*` variables name an
    endpoint or an exporter. `OTEL_SDK_DISABLED=true` turns it off. It is set up once per process.
    """
    try:
        return _found(namespace)
    except Exception as error:  # an application's own provider may refuse anything
        logger.warning("telemetry is off, a provider cannot be used: %s", type(error).__name__)
        logger.debug("telemetry cannot be set up", exc_info=True)
        return None


def _found(namespace: str) -> Telemetry | None:
    if _said("OTEL_SDK_DISABLED").lower() == "true":
        return None
    if not _host_has_provider():
        exporters = {signal: asked_exporter(signal) for signal in SIGNALS}
        if not any(exporters.values()):
            return None
        from jsjobs.telemetry.sdk import set_up  # noqa: PLC0415 - half a second and 20 MB that only this case pays

        try:
            set_up(exporters)
        except Exception as error:
            logger.warning("telemetry is off, an OTEL_* variable cannot be used: %s", type(error).__name__)
            logger.debug("telemetry cannot be set up", exc_info=True)
            return None
    from jsjobs.telemetry.recorder import Telemetry  # noqa: PLC0415 - as above

    return Telemetry(namespace)


def asked_exporter(signal: str) -> str | None:
    """Return the exporter that the environment asks for, `otlp` or `console`; None: none."""
    name = _said(f"OTEL_{signal.upper()}_EXPORTER").lower()
    if not name:
        named = _said("OTEL_EXPORTER_OTLP_ENDPOINT") or _said(f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT")
        return "otlp" if named else None
    if name not in _KNOWN:
        logger.warning(
            "OTEL_%s_EXPORTER=%.40s: jsjobs knows otlp, console and none; no %s are exported",
            signal.upper(),
            name,
            signal,
        )
        return None
    return None if name == "none" else name


def _said(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def _host_has_provider() -> bool:
    """Return whether the application installed a provider; without importing OpenTelemetry it cannot have."""
    trace, metrics = sys.modules.get("opentelemetry.trace"), sys.modules.get("opentelemetry.metrics")
    for module, get in ((trace, "get_tracer_provider"), (metrics, "get_meter_provider")):
        # Until one is installed the API returns a proxy; the one for metrics has no public name.
        name = "NoOp" if module is None else type(getattr(module, get)()).__name__.lstrip("_")
        if not name.startswith(("Proxy", "NoOp")):
            return True
    return False
