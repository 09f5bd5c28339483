"""The faults that the tests must notice: read from the `.toml` files beside this, one table `[[fault]]` for each."""

import ast
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent
PACKAGE = Path("src", "jsjobs")


class UnfitError(Exception):
    """A fault that cannot be put into the code as it is now; its text says why and what to do."""


@dataclass(frozen=True)
class Fault:
    id: str
    promise: str
    """What would be broken, in words."""
    file: str
    """Below `src/jsjobs`, or, like `streams/JOBS_LOW.json`, below the tree's root."""
    old: str
    """Occurs exactly once in the file."""
    new: str
    tests: tuple[str, ...]
    """Node ids; at least one of them must fail."""

    def path(self, root: Path) -> Path:
        """Where the file is."""
        ours = root / PACKAGE / self.file
        return ours if ours.is_file() else root / self.file

    def text(self, root: Path) -> str:
        """The file with this fault in it.

        Raises:
            UnfitError: If it does not fit the file.
        """
        path = self.path(root)
        if not path.is_file():
            raise UnfitError(f"{self.id}: there is no {self.file}: name the file where the code is now")
        found = path.read_text()
        if (times := found.count(self.old)) != 1:
            raise UnfitError(f"{self.id}: its old text occurs {times} times in {self.file}: write it as it is now")
        text = found.replace(self.old, self.new)
        if text == found:
            raise UnfitError(f"{self.id}: its new text is the old one")
        if path.suffix == ".py":
            try:
                tree = ast.parse(text)
            except SyntaxError as error:
                raise UnfitError(f"{self.id}: with its new text {self.file} is no Python: {error}") from error
            if ast.dump(tree) == ast.dump(ast.parse(found)):
                raise UnfitError(f"{self.id}: it changes nothing but comments or blanks")
        return text


def read_faults(folder: Path = FOLDER) -> dict[str, Fault]:
    """All of them, by their ids.

    Raises:
        UnfitError: If two have one id, or one is not written as it should be.
    """
    faults: dict[str, Fault] = {}
    for path in sorted(folder.glob("*.toml")):
        for table in tomllib.loads(path.read_text())["fault"]:
            fault = _fault(table, path.name)
            if fault.id in faults:
                raise UnfitError(f"{path.name}: the id {fault.id!r} is taken: name this fault otherwise")
            faults[fault.id] = fault
    return faults


def _fault(table: dict[str, object], where: str) -> Fault:
    names = {"id", "promise", "file", "old", "new", "tests"}
    if table.keys() != names or not table["tests"]:
        given = ", ".join(sorted(table))
        raise UnfitError(f"{where}: a fault has {', '.join(sorted(names))}, with one test at least; this one: {given}")
    return Fault(
        id=str(table["id"]),
        promise=str(table["promise"]),
        file=str(table["file"]),
        old=str(table["old"]),
        new=str(table["new"]),
        tests=tuple(table["tests"]),
    )
