"""Asking health endpoints as a kubelet would."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass

from cli_process import Process


@dataclass
class Health:
    """The health endpoints of one process."""

    port: int

    async def ask(self, path: str) -> tuple[int, dict]:
        return await asyncio.to_thread(self._ask, path)

    async def says(self, path: str, code: int, word: str = "") -> bool:
        """Whether it answers with this code, and with this word somewhere in its body."""
        found, body = await self.ask(path)
        return found == code and word in json.dumps(body)

    def _ask(self, path: str) -> tuple[int, dict]:
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code, json.loads(refusal.read())


async def health_of(process: Process) -> Health:
    """Where a process that was started with `--health-port 0` says that it answers."""
    await process.says("health endpoints /live and /ready on port ")
    found = re.search(r"/ready on port (\d+)", process.said)
    assert found
    return Health(int(found[1]))
