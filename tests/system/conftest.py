"""Worker processes that a test may kill."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from app_processes import Apps

from jsjobs import JobService


@pytest.fixture
def apps(tmp_path: Path) -> Iterator[Callable[[JobService.Config], Apps]]:
    """Makes sets of processes; what still runs of them after the test is killed."""
    with ExitStack() as made:

        def make(config: JobService.Config) -> Apps:
            apps = Apps(config, tmp_path)
            made.callback(apps.close)
            return apps

        yield make
