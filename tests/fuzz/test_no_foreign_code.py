"""Nothing that comes from outside is run: no eval, no pickle but in one place, SQL with parameters alone."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[2] / "src" / "jsjobs").rglob("*.py"))
PICKLES = {"handlers/importable.py"}
"""Where handlers are named to processes that this very worker starts: docs/hostile-input.md says why that is sound."""
RUNS_CODE = {"eval", "exec", "compile", "__import__"}
LOADERS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml", "jsonpickle"}
STATEMENTS = {"execute", "executemany", "fetch", "fetchrow", "fetchval", "fetchmany", "prepare", "cursor"}
FILES = {"migration.sql"}
"""Statements that a file of the package holds."""
SHELLS = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def problems(source: str, place: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            if place not in PICKLES and any(name.partition(".")[0] in LOADERS for name in names):
                yield f"{place}:{node.lineno} imports {names}"
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        is_method = isinstance(node.func, ast.Attribute)
        if (name in RUNS_CODE and not is_method) or name in SHELLS:
            yield f"{place}:{node.lineno} calls {name}"
        if any(word.arg == "shell" for word in node.keywords):
            yield f"{place}:{node.lineno} uses a shell"
        if place.startswith("postgres/") and is_method and name in STATEMENTS and node.args:
            statement = node.args[0]
            is_name = isinstance(statement, ast.Name) and statement.id.isupper()
            if not (is_name or _is_text(statement) or ast.unparse(statement) in FILES):
                yield f"{place}:{node.lineno} makes a statement of its own: {ast.unparse(statement)}"


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_the_sources_run_nothing_that_comes_from_outside() -> None:
    root = SOURCES[0].parent
    found = [line for path in SOURCES for line in problems(path.read_text(), path.relative_to(root).as_posix())]
    assert found == []


def test_statements_are_fixed_texts() -> None:
    """The upper-case names above are assigned once, from a literal or a file of the package."""
    statements = 0
    for path in SOURCES:
        if path.parent.name != "postgres":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
                assert not any(isinstance(each, ast.JoinedStr) for each in ast.walk(node)), ast.unparse(node)
                statements += 1
    assert statements > 5


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("eval(text)", "a.py"),
        ("exec(text)", "worker/a.py"),
        ("import pickle", "jetstream/a.py"),
        ("from pickle import loads", "cli/a.py"),
        ("import yaml", "a.py"),
        ("os.system(command)", "cli/a.py"),
        ("subprocess.run(command, shell=True)", "cli/a.py"),
        ("connection.fetch(f'select {name}')", "postgres/a.py"),
        ("connection.execute('select ' + name)", "postgres/a.py"),
        ("connection.fetchval(query.format(name))", "postgres/a.py"),
    ],
)
def test_the_check_finds(source: str, place: str) -> None:
    assert list(problems(source, place))
