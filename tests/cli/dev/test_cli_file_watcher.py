"""Noticing changes, on a real file system."""

import importlib.util
import sys
from pathlib import Path

import pytest

from jsjobs.cli.app_loader import source_folders
from jsjobs.cli.dev.file_watcher import changes, forget_bytecode


def test_python_files_count_and_what_programs_write_does_not(tmp_path: Path) -> None:
    folder = tmp_path / ".cache" / "project"  # what is hidden above the folder does not matter
    ignored = ["__pycache__", "node_modules/m", "venv/lib/site-packages/p", ".venv", ".git", ".jsjobs/nats"]
    for name in ["package", *ignored]:
        (folder / name).mkdir(parents=True)
    looks = changes([folder])
    assert next(looks) == set()
    for name in [*ignored, "."]:
        (folder / name / ".#lock.py").touch()
        (folder / name / "data.json").touch()
    for name in ignored:
        (folder / name / "written.py").touch()
    (folder / "package" / "source.py").touch()
    found: set[Path] = set()
    while not found:
        found = next(looks)
    assert found == {folder / "package" / "source.py"}
    (folder / "package" / "source.py").rename(folder / "renamed.py")
    found = set()
    while len(found) < 2:
        found |= next(looks)
    assert found == {folder / "package" / "source.py", folder / "renamed.py"}
    (folder / "new" / "deep").mkdir(parents=True)  # and at once a file in it, as when a branch is checked out
    (folder / "new" / "deep" / "first.py").touch()
    found = set()
    while not found:
        found = next(looks)
    assert found == {folder / "new" / "deep" / "first.py"}
    (folder / "new" / "second.py").touch()
    (folder / "new" / "deep" / "third.py").touch()
    while len(found) < 3:
        found |= next(looks)


def test_what_cannot_be_watched_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    looks = changes([tmp_path / "missing"])
    assert [next(looks), next(looks)] == [set(), set()]
    assert capsys.readouterr().err.startswith("files cannot be watched, so restart `jsjobs dev` after each change: ")
    monkeypatch.setitem(sys.modules, "watchfiles", None)  # as Python itself marks what cannot be imported
    assert next(changes([tmp_path])) == set()
    assert 'pip install "jsjobs[embedded]"' in capsys.readouterr().err


def test_bytecode_of_a_changed_file_is_forgotten(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    kept = Path(importlib.util.cache_from_source(str(source)))
    kept.parent.mkdir()
    kept.touch()
    forget_bytecode({source, tmp_path / "never_imported.py"})
    assert not kept.exists()


def test_an_application_that_lies_elsewhere_is_watched_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (tmp_path / "here").resolve(), (tmp_path / "there").resolve()
    for folder in (here / "src", there / "shop_watched"):
        folder.mkdir(parents=True)
    for file in (here / "src" / "near.py", there / "far.py", there / "shop_watched" / "__init__.py"):
        file.touch()
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(str(there))
    assert source_folders("src/near.py:jobs") == [here]
    assert source_folders(f"{there / 'far.py'}:jobs") == [here, there]
    assert source_folders("shop_watched.tasks:jobs") == [here, there / "shop_watched"]
    assert source_folders("pytest:jobs") == [here]  # an installed one does not change
