"""Tests go through the public surface: the private names of jsjobs that they use may only become fewer."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jsjobs

SOURCES = Path(jsjobs.__file__).parent
ROOT = Path(__file__).parents[1]
EXCEPTIONS: dict[str, int] = {
    "tests/jetstream/client/test_connection.py": 32,
    "tests/jetstream/client/test_listening.py": 4,
    "tests/jetstream/client/test_nats_py_names.py": 1,
    "tests/jetstream/client/test_transport.py": 6,
}
"""Uses in each file, of what stands between nats-py and our connection; any other file has none."""
OF_NAMED_TUPLES = {"_asdict", "_fields", "_make", "_replace"}


def is_private(name: str) -> bool:
    return name.isidentifier() and name.startswith("_") and not name.endswith("_")


def trees(*folders: Path) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def private_names() -> set[str]:
    """Those of modules and classes, and of what methods set: not of locals."""
    found: set[str] = set()
    for _, tree in trees(SOURCES):
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(attr=name, ctx=ast.Store()):
                    found.add(name)
                case ast.Module(body=body) | ast.ClassDef(body=body):
                    found |= set(defined(body))
    return {name for name in found if is_private(name)} - OF_NAMED_TUPLES


def defined(body: list[ast.stmt]) -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign() | ast.AnnAssign():
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        yield node.id


def uses(tree: ast.Module, names: set[str]) -> Iterator[tuple[int, str]]:
    """Where a private name of ours is imported, reached through an object, or given as a text, as to be patched."""
    others = {"self", "cls", *foreign_modules(tree)}
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=str(module), names=imported) if module.split(".")[0] == "jsjobs":
                words = [*module.split("."), *(one.name for one in imported)]
                yield from ((node.lineno, word) for word in words if is_private(word))
            case ast.Attribute(value=ast.Name(id=base)) if base in others:
                pass
            case ast.Attribute(attr=name) if name in names:
                yield node.lineno, ast.unparse(node)
            case ast.Call(args=arguments):
                given = [one.value for one in arguments if isinstance(one, ast.Constant) and isinstance(one.value, str)]
                for text in given:
                    if text in names or (text.startswith("jsjobs.") and any(map(is_private, text.split(".")))):
                        yield node.lineno, repr(text)


def foreign_modules(tree: ast.Module) -> set[str]:
    return {
        (one.asname or one.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for one in node.names
        if one.name.split(".")[0] != "jsjobs"
    }


def test_no_test_uses_more_private_names_than_before() -> None:
    names = private_names()
    assert len(names) > 500, "it finds them"
    found = {
        str(path.relative_to(ROOT)): sorted(uses(tree, names))
        for path, tree in trees(ROOT / "tests", ROOT / "benchmarks")
    }
    counted = Counter({path: len(some) for path, some in found.items() if some})
    more = {path: found[path] for path in counted - Counter(EXCEPTIONS)}
    assert not more, "observe it through what is public, or make public what a reader needs"
    assert not Counter(EXCEPTIONS) - counted, "fewer than are listed: list no more than there are"
