"""What type checkers see in the README, the docs and the examples."""

import re
from pathlib import Path

import pytest

from doc_pages import PAGES, ROOT, name_of
from type_checkers import basedpyright_says, mypy_says

SNIPPET = re.compile(r"^```python\n# (\w+\.py)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OF_NATS_PY = "# pyright: reportUnknownMemberType=false\n"
"""Plain nats-py leaves some parameters without types."""

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    """A folder with one folder for each page, in which its snippets are modules, and one for the examples."""
    folder = tmp_path / "snippets"
    found = {name_of(page).removesuffix(".md").replace("/", "-"): SNIPPET.findall(page.read_text()) for page in PAGES}
    found["examples"] = [(file.name, file.read_text()) for file in (ROOT / "examples").rglob("*.py")]
    assert all(found[name] for name in ("README", "docs-publishing", "docs-recipes-fan-out", "examples"))
    for page, modules in found.items():
        for name, text in modules:
            (folder / page).mkdir(parents=True, exist_ok=True)
            (folder / page / name).write_text(OF_NATS_PY + text if "nats.connect(" in text else text)
    return folder


def test_mypy_at_its_strictest_finds_nothing(snippets: Path, tmp_path: Path) -> None:
    for page in snippets.iterdir():
        assert mypy_says(page, tmp_path / "cache") == []


def test_basedpyright_at_pyright_s_strictest_finds_nothing(snippets: Path) -> None:
    assert basedpyright_says(snippets) == []
