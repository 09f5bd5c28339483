from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from performance import Performance


@pytest.fixture
def perform(tmp_path: Path) -> Iterator[Callable[..., Performance]]:
    """Starts a demo; it is ended after the test, and must have left nothing behind."""
    with ExitStack() as performances:
        started = []

        def start(*arguments: object, **environment: str) -> Performance:
            performance = Performance(tmp_path / f"temporary-{len(started)}", *arguments, **environment)
            started.append(performances.enter_context(performance))
            return performance

        yield start
    assert [performance.left_behind() for performance in started] == [[] for _ in started]
