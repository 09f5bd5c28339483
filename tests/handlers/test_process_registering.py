"""What can be registered to run in a process."""

import functools

import pytest

import process_handlers as handlers
from jsjobs.handlers.registry import Registry
from jsjobs.model.errors import JobError


class Holder:
    def __init__(self) -> None:
        self.file = (_ for _ in ())

    def method(self, payload: object) -> None:
        return None


def test_what_a_process_cannot_import_is_refused_when_it_is_registered() -> None:
    def nested(payload: object) -> None:
        return None

    for function in (lambda payload: None, nested, functools.partial(nested), Holder().method, handlers.Heavy()):
        registry = Registry()
        with pytest.raises(JobError, match=r"cannot run in a process.*top level of a module") as raised:
            registry.register("t", function, run_in="process")
        assert raised.value.reason == "Validation"
        assert registry.types == []
        registry.register("t", function, run_in="thread")


async def later(payload: object) -> None:
    return None


def test_where_to_run_is_checked() -> None:
    for run_in in ("thread", "process"):
        with pytest.raises(JobError, match="the handler of t is async"):
            Registry().register("t", later, run_in=run_in)
    for wrong in ("fiber", "", 1, ["process"]):
        with pytest.raises(JobError, match="must be 'thread' or 'process'"):
            Registry().register("t", handlers.add, run_in=wrong)


def test_a_handler_below_another_decorator_is_refused_when_a_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    registry.register("t", handlers.add, run_in="process")
    registry.for_processes()
    monkeypatch.setattr(handlers, "add", functools.wraps(handlers.add)(lambda payload: None))
    with pytest.raises(JobError, match="no other decorator above"):
        registry.for_processes()
