"""The Node.js tests install the same packages everywhere, from whichever registry the machine uses."""

import json
import re
from pathlib import Path

NODE = Path(__file__).parent / "node"


def test_every_version_is_exact_and_no_registry_is_named() -> None:
    wanted = json.loads((NODE / "package.json").read_text())["dependencies"]
    locked = json.loads((NODE / "package-lock.json").read_text())["packages"]
    assert set(wanted) == {f"@nats-io/{name}" for name in ("jetstream", "kv", "services", "transport-node")}
    for name, version in wanted.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+(-\d+)?", version)
        assert locked[f"node_modules/{name}"]["version"] == version
    for name, package in locked.items():
        assert not name or package["integrity"].startswith("sha512-")
        assert "resolved" not in package
    assert "://" not in (NODE / "package-lock.json").read_text()
