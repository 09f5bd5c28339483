"""What type checkers at their strictest say of a user's code."""

import json
import subprocess
import sys
from pathlib import Path

Said = list[tuple[str, int, str]]
"""File, line from 1, and what is wrong there."""


def mypy_says(folder: Path, cache: Path) -> Said:
    """Of the modules in a folder, which import each other."""
    options = ["--strict", "--config-file=", "--no-error-summary", "--output=json", f"--cache-dir={cache}"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "."], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return [(one["file"], one["line"], one["message"]) for one in found if one["severity"] == "error"]


def basedpyright_says(folder: Path) -> Said:
    """Of the modules in each folder of a folder, which import those of their own folder."""
    roots = [{"root": str(one)} for one in sorted(folder.iterdir()) if one.is_dir()] or [{"root": "."}]
    config = {"typeCheckingMode": "strict", "executionEnvironments": roots}
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == len(list(folder.rglob("*.py")))
    return [
        (str(Path(one["file"]).relative_to(folder)), one["range"]["start"]["line"] + 1, one["message"])
        for one in found["generalDiagnostics"]
    ]
