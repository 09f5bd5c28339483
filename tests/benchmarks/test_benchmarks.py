"""The benchmarks' own logic: what they judge, what they write, and that nothing of them stays behind. No times."""

import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from facts import eventually

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def check_speed() -> ModuleType:
    return importlib.import_module("check_speed")


@pytest.fixture
def figures() -> ModuleType:
    return importlib.import_module("harness.figures")


class TestCheckSpeed:
    def test_good_figures_pass(self, check_speed, figures) -> None:
        lines, good = check_speed.judge([figures.Ratio("drain: rate", 0.8, 0.45), *self._counts(check_speed, 1.0)])
        assert good
        assert all(line.startswith("ok ") for line in lines)

    def test_a_rate_below_its_bound_fails(self, check_speed, figures) -> None:
        lines, good = check_speed.judge([figures.Ratio("drain: rate", 0.44, 0.45), *self._counts(check_speed, 1.0)])
        assert not good
        assert [line for line in lines if line.startswith("BAD")] == [lines[0]]

    @pytest.mark.parametrize("what", ["ordered submit calls", "parallel run calls", "ordered blocks kept"])
    def test_a_count_above_its_bound_fails(self, check_speed, what: str) -> None:
        counts = {**check_speed.COUNTS, what: check_speed.COUNTS[what] * 1.01}
        assert not check_speed.judge(check_speed.counted(counts))[1]

    def test_what_is_not_a_number_is_not_good(self, check_speed, figures) -> None:
        assert not check_speed.judge([figures.Ratio("drain: rate", float("nan"), 0.45)])[1]

    def test_a_missing_count_is_an_error(self, check_speed) -> None:
        with pytest.raises(KeyError):
            check_speed.counted({"ordered submit calls": 1.0})

    @staticmethod
    def _counts(check_speed, share: float) -> list:
        return check_speed.counted({what: most * share for what, most in check_speed.COUNTS.items()})


class TestFigures:
    def test_a_ratio_is_that_of_the_medians_and_knows_its_rounds(self, figures) -> None:
        ours, other = ([{"rate": rate} for rate in rates] for rates in ((2, 4, 9), (4, 4, 6)))
        found = figures.ratio("x", ours, other, 1.1)
        assert (found.value, found.rounds, found.held) == (1.0, (0.5, 1.0, 1.5), False)
        assert "**no**" in found.row()

    def test_the_first_tenth_warms_up(self, figures) -> None:
        assert figures.quantile([99.0, *map(float, range(9))], 0.5) == 4


class TestPages:
    def test_only_what_stands_between_the_markers_is_replaced(self) -> None:
        pages = importlib.import_module("harness.pages")
        text = f"by hand\n{pages.begin('drain')}\nold \\1\n{pages.end('drain')}\nby hand too\n"
        assert (
            pages.put(text, "drain", ["new \\1"])
            == f"by hand\n{pages.begin('drain')}\n\nnew \\1\n\n{pages.end('drain')}\nby hand too\n"
        )
        assert pages.put(pages.put(text, "drain", ["new"]), "drain", ["new"]) == pages.put(text, "drain", ["new"])

    def test_a_page_without_the_markers_is_an_error(self) -> None:
        pages = importlib.import_module("harness.pages")
        with pytest.raises(pages.NoMarker):
            pages.put("by hand\n", "drain", ["new"])

    def test_the_page_has_a_place_for_every_part(self) -> None:
        pages, run = importlib.import_module("harness.pages"), importlib.import_module("run")
        text = run.PAGE.read_text()
        for name in ("machine", "asked", *run.WORKLOADS):
            assert pages.put(text, name, ["x"]) != text


class TestRounds:
    def test_sides_take_turns_in_an_order_that_changes(self) -> None:
        rounds, order = importlib.import_module("harness.rounds"), []
        rounds.take_turns(["bare", "jsjobs"], 2, lambda name: order.append(name) or {"rate": 1.0}, what="x")
        assert order == ["bare", "jsjobs", "jsjobs", "bare"]

    def test_a_peer_that_fails_is_left_out_and_a_side_of_ours_is_an_error(self) -> None:
        rounds, processes = importlib.import_module("harness.rounds"), importlib.import_module("harness.processes")
        calls: list[str] = []

        def measure(failing: str, name: str) -> dict[str, float]:
            calls.append(name)
            if name == failing:
                raise processes.ChildFailed(name)
            return {"rate": 1.0}

        found = rounds.take_turns(["jsjobs", "saq"], 3, lambda name: measure("saq", name), what="x")
        assert (list(found), calls.count("saq")) == (["jsjobs"], 1)
        with pytest.raises(processes.ChildFailed):
            rounds.take_turns(["jsjobs"], 1, lambda name: measure("jsjobs", name), what="x")


@pytest.fixture
def long_run(tmp_path: Path) -> Iterator[subprocess.Popen]:
    command = [sys.executable, str(FOLDER / "drain.py"), "--jobs", "1000000", "--rounds", "1"]
    with subprocess.Popen(command, env={"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}) as process:
        yield process
        process.kill()


def children(process: subprocess.Popen) -> list[psutil.Process] | None:
    found = psutil.Process(process.pid).children(recursive=True)
    # The guard, the server, and a process that fills or works.
    return found if len(found) >= 3 else None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
async def test_a_benchmark_that_is_ended_leaves_nothing_behind(how: signal.Signals, long_run, tmp_path: Path) -> None:
    found = await eventually(lambda: children(long_run))
    long_run.send_signal(how)
    long_run.wait(30)
    await eventually(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in found))
    await eventually(lambda: not list(tmp_path.glob("bench-*")))


def test_a_folder_is_removed_though_an_ending_process_still_writes_in_it(tmp_path: Path) -> None:
    guard, folder = importlib.import_module("harness.guard"), tmp_path / "bench"
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(folder)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    guard.remove(folder)
    writer.wait(30)
    writer.stdout.close()
    assert not folder.exists()


WRITING = """
import os, sys, time
os.mkdir(sys.argv[1])
until = time.monotonic() + 1
number = 0
while time.monotonic() < until:
    try:
        os.mkdir(f"{sys.argv[1]}/{number}")
    except FileNotFoundError:
        break
    number += 1
    if number == 1000:
        print("writing", flush=True)
"""
