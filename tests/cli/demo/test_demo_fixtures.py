"""Which files the demo takes."""

import os
from pathlib import Path

import pytest

from jsjobs.cli.demo import fixtures
from jsjobs.cli.demo.fixtures import choose_files
from jsjobs.cli.errors import WrongUse
from jsjobs.model.job import Priority


def test_smaller_files_are_more_urgent(tmp_path: Path) -> None:
    for size in (0, 2047, 2048, 4096, 8192):
        (tmp_path / f"{size:05}").write_bytes(bytes(size))
    chosen = choose_files(tmp_path)
    expected = [Priority.CRITICAL, Priority.CRITICAL, Priority.HIGH, Priority.NORMAL, Priority.LOW]
    assert [file.priority for file in chosen.files] == expected
    assert chosen.left_out == ()


def test_a_subfolder_is_an_entity_whatever_its_name(tmp_path: Path) -> None:
    for name in ("plain", "two words", " space ", "line\nbreak", "long" * 50, "ü" * 80):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    entities = [file.entity for file in choose_files(tmp_path).files]
    assert len(set(entities)) == 6
    assert {f"{tmp_path.name}/plain", f"{tmp_path.name}/two words"} < set(entities)
    assert all(entity.isprintable() and entity == entity.strip() and len(entity) <= 200 for entity in entities)


def test_it_takes_so_many_files_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixtures, "MAX_FILES", 3)
    for number in range(5):
        (tmp_path / str(number)).touch()
    chosen = choose_files(tmp_path)
    assert [file.name for file in chosen.files] == ["0", "1", "2"]
    assert chosen.left_out == ("1 or more file(s) after the first 3",)


def test_it_takes_so_many_bytes_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixtures, "MAX_BYTES", 2 * 2**20)
    for name, size in (("a", 2**20), ("b", 2 * 2**20), ("c", 2**20), ("d", 1)):
        (tmp_path / name).write_bytes(bytes(size))
    chosen = choose_files(tmp_path)
    assert [file.name for file in chosen.files] == ["a", "c"]
    assert chosen.size == 2 * 2**20
    assert chosen.left_out == ("2 file(s) that go beyond 2 MB in all",)


def test_what_cannot_be_packed_is_left_out_and_counted(tmp_path: Path) -> None:
    (tmp_path / "good").touch()
    (tmp_path / ("long" * 51)).touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).touch()
    (tmp_path / "twice").touch()
    (tmp_path / "twice.gz").mkdir()
    os.mkfifo(tmp_path / "pipe")  # reading it would never end
    chosen = choose_files(tmp_path)
    assert [file.name for file in chosen.files] == ["good"]
    assert sorted(chosen.left_out) == [
        "1 file(s) whose name is not UTF-8",
        "1 file(s) whose packed name is a folder's",
        "1 file(s) with a name longer than 200 bytes",
    ]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_files_that_the_system_makes_up_are_left_out() -> None:
    with pytest.raises(WrongUse, match="that the system makes up"):
        choose_files(Path("/proc/self/net/stat"))


def test_a_name_that_no_folder_can_have_is_wrong_use() -> None:
    for name in ("~nobody-of-this-name/x", "a\0b", "x" * 5000):
        with pytest.raises(WrongUse, match="cannot be read"):
            choose_files(Path(name))
