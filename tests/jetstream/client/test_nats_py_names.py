"""nats-py's private names, which a new version of it may change: all of them stand in one file and in one table."""

import ast
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
from nats.aio import client as nats_module
from nats.aio.client import Client
from nats.aio.transport import Transport

from jsjobs.jetstream import client as package
from jsjobs.jetstream.client.nats_client import PRIVATE_NAMES, _Reconnecting

FOLDER = Path(package.__file__).parent
MODULES = {file.name: ast.parse(file.read_text()) for file in FOLDER.glob("*.py")}
BASES = {"Client": {*dir(Client), *vars(Client())}, "Transport": set(dir(Transport))}
"""What classes of ours may stem from, and what these have."""
OVERRIDDEN = [name for name, why in PRIVATE_NAMES.items() if why.startswith("overridden")]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined(tree: ast.AST) -> set[str]:
    """Private names that the code makes: functions, classes, and what it sets on `self`."""
    made = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    sets = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store))
    return {name for name in made | {node.attr for node in sets} if is_private(name)}


def used(tree: ast.AST) -> set[str]:
    """Private names that the code reads or sets on anything."""
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and is_private(node.attr)}


def taken_from_nats(tree: ast.Module) -> set[str]:
    """Private names of nats-py in one file: in classes that stem from it, and on anything that the file did not make."""
    found = used(tree) - defined(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                found |= (used(node) | defined(node)) & BASES.get(ast.unparse(base), set())
    return found


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_nats_py_still_has_it(name: str) -> None:
    assert name in BASES["Client"], (
        f"nats-py {version('nats-py')} has no {name} any more ({PRIVATE_NAMES[name]}): "
        "see PRIVATE_NAMES in jsjobs/jetstream/client/nats_client.py"
    )


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_nats_py_still_calls_what_is_overridden_in_the_same_way(name: str) -> None:
    theirs, ours = inspect.signature(getattr(Client, name)), inspect.signature(getattr(_Reconnecting, name))
    assert list(ours.parameters) == list(theirs.parameters), f"nats-py {version('nats-py')} passes {name}{theirs}"
    assert f"self.{name}(" in inspect.getsource(nats_module), f"nats-py {version('nats-py')} never calls {name}"


def test_each_name_that_is_used_is_listed_and_each_that_is_listed_is_used() -> None:
    assert taken_from_nats(MODULES["nats_client.py"]) == set(PRIVATE_NAMES)


@pytest.mark.parametrize("file", sorted(set(MODULES) - {"nats_client.py"}))
def test_no_other_file_uses_any(file: str) -> None:
    assert taken_from_nats(MODULES[file]) == set()


def test_every_class_that_stems_from_nats_py_is_looked_through() -> None:
    for file, tree in MODULES.items():
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "nats"
            for alias in node.names
        }
        classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
        bases = {ast.unparse(base) for node in classes for base in node.bases}
        assert bases & imported <= set(BASES), file


def test_the_look_finds_what_is_not_listed() -> None:
    code = "class A(Client):\n    def f(self):\n        self._pending = self._mine = 1\n        nats._status"
    assert taken_from_nats(ast.parse(code)) == {"_pending", "_status"}


def test_the_connection_knows_nothing_of_nats_py() -> None:
    for file in ("connection.py", "interface.py", "parser.py", "requests.py", "permissions.py"):
        for node in ast.walk(MODULES[file]):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.partition(".")[0] == "nats" for name in names), file
