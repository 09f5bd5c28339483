import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jsjobs import JobService
from jsjobs.cli.app_loader import load_service
from jsjobs.cli.errors import Failed, WrongUse

SERVICE = "from jsjobs import JobService\njobs = JobService()\n"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes a module into the current folder; all of them are forgotten after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    yield write
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_module_in_the_current_folder(write: Callable[[str, str], Path]) -> None:
    write("shop_a.py", SERVICE)
    assert isinstance(load_service("shop_a:jobs"), JobService)


def test_a_file_by_its_path(write: Callable[[str, str], Path]) -> None:
    file = write("elsewhere/shop_b.py", SERVICE)
    assert load_service(f"{file}:jobs") is load_service("elsewhere/shop_b.py:jobs")


def test_a_file_in_a_package_may_import_its_neighbours(write: Callable[[str, str], Path]) -> None:
    write("shop_c/__init__.py", "")
    write("shop_c/service.py", SERVICE)
    write("shop_c/tasks.py", "from .service import jobs\n")
    assert isinstance(load_service("shop_c/tasks.py:jobs"), JobService)
    assert isinstance(load_service("shop_c.tasks:jobs"), JobService)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("shop_d", "like app:jobs or path/app.py:jobs"),
        (":jobs", "like app:jobs"),
        ("shop_d:", "like app:jobs"),
        ("no_such_module:jobs", "there is no module 'no_such_module' in "),
        ("shop_d.inner:jobs", "there is no module 'shop_d.inner' in "),
        ("no_such.py:jobs", "there is no file no_such.py"),
        ("shop_d:other", "shop_d has no 'other'; did you mean shop_d:jobs?"),
        ("shop_d:number", "shop_d:number is a int, not a JobService; did you mean shop_d:jobs?"),
        ("json.py:jobs", "json.py cannot be imported: json is the name of another module"),
    ],
)
def test_a_wrong_target_is_wrong_use(write: Callable[[str, str], Path], target: str, said: str) -> None:
    write("shop_d.py", f"{SERVICE}number = 1\n")
    write("json.py", SERVICE)
    with pytest.raises(WrongUse) as caught:
        load_service(target)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("x = 1\nraise RuntimeError('boom')\n", "RuntimeError: boom\n  shop_e.py:2: raise RuntimeError('boom')"),
        ("x = (\n", "SyntaxError: '(' was never closed\n  shop_e.py:1: x = ("),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3\n  shop_e.py:2: sys.exit(3)"),
    ],
)
def test_a_broken_application_says_where(write: Callable[[str, str], Path], text: str, said: str) -> None:
    write("shop_e.py", text)
    with pytest.raises(Failed) as caught:
        load_service("shop_e:jobs")
    assert said in str(caught.value)
