"""The pages whose commands and snippets tests run."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "docs" / "recipes").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *RECIPES]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+\.(?:py|toml))\n")


def name_of(page: Path) -> str:
    """What tells it from the others: README.md is the name of two."""
    return str(page.relative_to(ROOT))


def save_files(page: Path, folder: Path) -> list[str]:
    """Save the page's files, as a reader does; their names are returned."""
    names = []
    for language, body in BLOCK.findall(page.read_text()):
        if language in {"python", "toml"}:
            name = FILE.match(body)
            assert name, f"a file of {page.name} does not say its name: {body[:60]}"
            (folder / name[1]).write_text(body)
            names.append(name[1])
    return names
