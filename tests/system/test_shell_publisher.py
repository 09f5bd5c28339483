"""A shell without any client: a job is one line of the protocol, its receipt and its entry are two more."""

import asyncio
import json
import os
import subprocess
from urllib.parse import urlsplit

import pytest

from jsjobs import JobService

SCRIPT = r"""
exec 3<>/dev/tcp/$HOST/$PORT
read -r -u 3 _info
say() { printf '%s\r\n' "$@" >&3; }
hear() { read -r -t 10 -u 3 line && read -r -t 10 -u 3 body && body=${body%$'\r'}; }
say 'CONNECT {"verbose":false,"pedantic":false}' 'SUB answers 1'
say "PUB $SUBJECT answers ${#BODY}" "$BODY"
hear
seq=${body##*\"seq\":} seq=${seq%%[,\}]*}
for _ in $(seq 100); do
  ask="{\"last_by_subj\":\"\$KV.$NAMESPACE.$PREFIX-$seq\"}"
  say "PUB \$JS.API.STREAM.MSG.GET.KV_$NAMESPACE answers ${#ask}" "$ask"
  hear
  entry=${body##*\"data\":\"} entry=$(base64 -d <<<"${entry%%\"*}" 2>/dev/null)
  case $entry in *'"status":"complete"'*) echo "$PREFIX-$seq $entry"; exit 0;; esac
  sleep 0.1
done
exit 1
"""


@pytest.mark.parametrize(
    ("subject", "prefix", "lane"),
    [
        ("parallel.normal.-.email.send", "normal-parallel", "parallel"),
        ("parallel.high.acme.email.send", "high-parallel", "parallel"),
        ("normal.customer-42.email.send", "normal", "ordered"),
    ],
)
async def test_a_job_is_published_and_followed_by_a_shell(
    jobs: JobService, subject: str, prefix: str, lane: str
) -> None:
    @jobs.handler("email.send")
    async def send(payload: dict[str, str], ctx: JobService.Context) -> str:
        return f"{ctx.lane} to {payload['to']}"

    url = urlsplit(jobs.config.nats_url)
    namespace = jobs.config.namespace
    given = {"HOST": str(url.hostname), "PORT": str(url.port), "NAMESPACE": namespace, "PREFIX": prefix}
    given |= {"SUBJECT": f"{namespace}.{subject}", "BODY": '{"to": "eve@example.org"}'}
    async with jobs.worker():
        done = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", SCRIPT],
            env=given | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        job_id, _, entry = done.stdout.partition(" ")
        assert json.loads(entry)["result"] == f"{lane} to eve@example.org"
        assert await jobs.result(job_id) == f"{lane} to eve@example.org"
