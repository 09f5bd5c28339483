"""What a process sees that a test starts: this process's environment, without what would change what it does."""

import os

# Settings of jsjobs, NATS, Postgres and telemetry; options and plugins of the pytest that runs this test.
FOREIGN = ("JSJOBS_", "NATS_", "DATABASE_URL", "PG", "OTEL_", "PYTEST_", "COV_")


def bare_environment(*, counted: bool = True) -> dict[str, str]:
    """It; `counted` says whether coverage of the process is collected where this run collects it."""
    foreign = FOREIGN if counted else (*FOREIGN, "COVERAGE_")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
