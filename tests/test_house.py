"""The layout of the code: sizes, packages, and the picture of both in CONTRIBUTING.md.

Where a test fails, its message says what to do.
"""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import jsjobs

ROOT = Path(__file__).parents[1]
SOURCES = Path(jsjobs.__file__).parent
LONG_FILE = 400
LONG_FUNCTION = 60
FULL_PACKAGE = 18

LONG_FILES: dict[str, int] = {}
"""Today's files above the ceiling, with their lengths. The list may only shrink."""
LONG_FUNCTIONS: dict[str, int] = {}
"""Today's functions above the ceiling, as `worker/worker.py:Worker.start`, with their lengths. The list may only shrink."""


def files() -> list[Path]:
    return sorted(path for path in SOURCES.rglob("*.py") if "_shipped" not in path.parts)


def packages() -> list[Path]:
    return [file.parent for file in files() if file.name == "__init__.py"]


def name_of(path: Path) -> str:
    return path.relative_to(SOURCES).as_posix()


def functions_in(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The name and the length of every function below a node; decorators do not count."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{prefix}.{child.name}".lstrip(".")
            if not isinstance(child, ast.ClassDef):
                yield name, child.end_lineno - child.lineno + 1
        yield from functions_in(child, name)


def summary(file: Path) -> str:
    return (ast.get_docstring(ast.parse(file.read_text())) or "").split("\n")[0]


def over(lengths: dict[str, int], ceiling: int, exceptions: dict[str, int]) -> dict[str, int]:
    return {name: length for name, length in lengths.items() if length > max(ceiling, exceptions.get(name, 0))}


def outdated(lengths: dict[str, int], ceiling: int, exceptions: dict[str, int]) -> dict[str, int]:
    """The exceptions that are longer than what they allow for is today."""
    return {name: longest for name, longest in exceptions.items() if longest > max(lengths.get(name, 0), ceiling)}


def test_the_ratchet_notices_what_grows_and_what_shrank() -> None:
    assert over({"a": 61, "b": 60, "c": 70}, 60, {"c": 70}) == {"a": 61}
    assert over({"c": 71}, 60, {"c": 70}) == {"c": 71}
    assert outdated({"a": 65, "b": 70}, 60, {"a": 66, "b": 70, "gone": 80}) == {"a": 66, "gone": 80}
    tree = ast.parse("class A:\n  def b(self):\n    async def c():\n      pass\n    return c\n")
    assert dict(functions_in(tree)) == {"A.b": 4, "A.b.c": 2}


def test_no_file_is_long() -> None:
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in files()}
    assert over(lengths, LONG_FILE, LONG_FILES) == {}, (
        f"above {LONG_FILE} lines: move what is a responsibility of its own"
    )
    assert outdated(lengths, LONG_FILE, LONG_FILES) == {}, "shorter or gone by now: lower it in LONG_FILES, or drop it"
    assert lengths["service/job_service.py"] < 275, "the one export stays a thin facade: move code to where it belongs"


def test_subjects_of_the_jetstream_api_stand_in_one_package() -> None:
    found = {
        name_of(file)
        for file in files()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Constant) and re.match(r"\$JS\.API|(STREAM|CONSUMER|DIRECT)\.[A-Z]+", str(node.value))
    }
    assert {Path(name).parent.as_posix() for name in found} == {"jetstream/api"}, (
        "call the function of the endpoint, in jetstream/api"
    )


def test_no_function_is_long() -> None:
    lengths = {
        f"{name_of(file)}:{name}": length
        for file in files()
        for name, length in functions_in(ast.parse(file.read_text()))
    }
    assert over(lengths, LONG_FUNCTION, LONG_FUNCTIONS) == {}, f"above {LONG_FUNCTION} lines: name a part, and call it"
    assert outdated(lengths, LONG_FUNCTION, LONG_FUNCTIONS) == {}, "shorter or gone by now: lower it in LONG_FUNCTIONS"


def test_no_package_is_full() -> None:
    counts = {name_of(package): len(list(package.glob("*.py"))) - 1 for package in packages()}
    full = {name: count for name, count in counts.items() if count > FULL_PACKAGE}
    assert full == {}, f"more than {FULL_PACKAGE} modules in one folder: sort them into packages by their role"


def test_every_folder_with_code_is_a_package_with_one_line_that_says_what_it_holds() -> None:
    assert {file.parent for file in files()} == set(packages()), "a folder with modules needs an __init__.py"
    said = {
        name_of(package): ast.get_docstring(ast.parse((package / "__init__.py").read_text())) for package in packages()
    }
    wrong = {name: text for name, text in said.items() if not text or "\n" in text or not text.endswith(".")}
    assert wrong == {}, "begin its __init__.py with a docstring of one line, a sentence; the rest belongs to a module"


# -- the picture in CONTRIBUTING.md


def layers_of(container: str) -> list[list[str]]:
    """What import-linter is told of the layers in a package, the uppermost first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    [layers] = [each["layers"] for each in contracts if each["type"] == "layers" and each["containers"] == [container]]
    return [[name.strip() for name in layer.split("|")] for layer in layers]


def entry(path: Path, depth: int) -> Iterator[str]:
    """The line of a module or a package, and below it those of the packages in it."""
    is_package = path.is_dir()
    name = "  " * depth + path.name + ("/" if is_package else ".py")
    yield f"{name:<20}{summary(path / '__init__.py' if is_package else path.with_suffix('.py'))}"
    if is_package and depth == 1:
        for below in sorted(path.iterdir()):
            if (below / "__init__.py").exists() and path.name != "jetstream":
                yield from entry(below, depth + 1)


def drawn(top: str, folder: Path, layers: Iterable[list[str]]) -> str:
    groups = ["\n".join(line for name in layer for line in entry(folder / name, 1)) for layer in layers]
    return f"{top}\n" + "\n\n".join(groups)


def picture() -> str:
    """The layers and packages as CONTRIBUTING.md shows them, from the configuration and the code."""
    whole = drawn("src/jsjobs/", SOURCES, layers_of("jsjobs"))
    inside = drawn("src/jsjobs/jetstream/", SOURCES / "jetstream", layers_of("jsjobs.jetstream"))
    return f"```text\n{whole}\n```\n\nInside of `jetstream/` likewise:\n\n```text\n{inside}\n```\n"


def test_every_package_and_module_at_the_top_has_its_layer() -> None:
    for container, folder in (("jsjobs", SOURCES), ("jsjobs.jetstream", SOURCES / "jetstream")):
        there = {
            path.stem
            for path in folder.iterdir()
            if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
        }
        layered = {name for layer in layers_of(container) for name in layer}
        assert there == layered, f"give each its place among the layers of {container} in pyproject.toml, and no other"


def test_contributing_shows_the_layers_and_the_packages_as_they_are() -> None:
    expected = picture()
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = re.search(r"^```text\nsrc/jsjobs/\n.*?\n```\n.*?^```\n", text, re.MULTILINE | re.DOTALL)
    assert shown, f"the picture belongs to CONTRIBUTING.md:\n\n{expected}"
    assert shown[0] == expected, f"CONTRIBUTING.md shows another layout. Put this there:\n\n{expected}"
    assert [line for line in expected.splitlines() if len(line) > 130] == [], "shorten these docstrings' first lines"
