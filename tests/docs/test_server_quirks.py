"""docs/server-quirks.md names modules and tests that exist, and what points into it from the code leads somewhere."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "jsjobs"
PAGE = (ROOT / "docs" / "server-quirks.md").read_text()
QUIRKS = dict(re.findall(r"^### (.+)\n((?:(?!^#).*\n)*)", PAGE, re.MULTILINE))
PARTS = ("- **The server.**", "- **Measured.**", "- **jsjobs.**", "- **Shown by**")
FILE = re.compile(r"`([\w/]+\.py)(?:::(\w+))?`")


def anchor(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_each_quirk_says_what_happens_what_was_measured_what_jsjobs_does_and_what_shows_it() -> None:
    assert len(QUIRKS) > 20
    for heading, text in QUIRKS.items():
        assert re.findall(r"^- \*\*.+?\*\*", text, re.MULTILINE) == list(PARTS), heading
        does, shown = text.split(PARTS[2])[1].split(PARTS[3])
        assert FILE.search(does), f"{heading}: name the module that handles it"
        assert re.search(r"`tests/\w", shown), f"{heading}: name a test that shows it"


def test_the_contents_list_the_quirks_in_their_order_with_the_modules_that_handle_them() -> None:
    rows = re.findall(r"^\| \[(.+)\]\(#([\w-]+)\) \| (.+) \|$", PAGE, re.MULTILINE)
    assert [(heading, link) for heading, link, _ in rows] == [(heading, anchor(heading)) for heading in QUIRKS]
    for heading, _, modules in rows:
        assert set(FILE.findall(modules)) == set(FILE.findall(QUIRKS[heading].split(PARTS[2])[1].split(PARTS[3])[0]))


def test_every_module_and_test_that_it_names_exists() -> None:
    named = FILE.findall(PAGE)
    assert len(named) > 80
    for path, test in named:
        file = (ROOT if path.startswith("tests/") else SOURCES) / path
        assert file.is_file(), f"`{path}`: name it as it is called now, below src/jsjobs or from tests/ on"
        assert not test or f"def {test}(" in file.read_text(), f"`{path}` has no {test}"


def test_what_points_into_it_leads_to_a_quirk() -> None:
    anchors = {anchor(heading) for heading in QUIRKS}
    assert set(re.findall(r"\]\(#([\w-]+)\)", PAGE)) <= anchors
    pointing = [*SOURCES.rglob("*.py"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    found = {
        (file.relative_to(ROOT).as_posix(), to)
        for file in pointing
        for to in re.findall(r"server-quirks\.md#([\w-]+)", file.read_text())
    }
    assert len({file for file, _ in found if file.startswith("src/")}) > 10
    assert sorted((file, to) for file, to in found if to not in anchors) == []


def test_what_was_measured_is_told_on_the_page_alone() -> None:
    found = [
        f"{file.relative_to(SOURCES)}: {line.strip()}"
        for file in SOURCES.rglob("*.py")
        for line in file.read_text().splitlines()
        if re.search(r"\bmeasured\b|nats-server 2\.15\.\d", line)
    ]
    assert found == [], "write it in docs/server-quirks.md, and point there: docs/server-quirks.md#anchor"
