"""An app that packs the files of a folder: hashing, compressing, checking, uploading, and one archive of it all.

Start it, on local servers that need no installation:

    jsjobs dev examples/files/app.py:jobs

and submit something in a second terminal, in the same folder:

    jsjobs submit file.pack '{"file": "README.md", "packed": "packed/README.md.gz"}' --entity docs --wait
    jsjobs submit json.check '{"file": "README.md"}'      # no JSON: dead after three attempts
    jsjobs dlq list                                       # there it is, with its three errors; `jsjobs dlq replay ID`
    jsjobs submit archive.build '{"packed": "packed", "archive": "all.zip"}' --duration long --wait

A folder's files are one entity, so they are packed one at a time and in order, however many workers run. Jobs without
an entity run side by side. `jsjobs demo` runs this same app on every file of a folder. Paths are as the worker sees
them.
"""

import asyncio
import gzip
import hashlib
import json
import shutil
import zipfile
from pathlib import Path

from pydantic import BaseModel

from jsjobs import JobService

CHUNK = 1 << 16

jobs = JobService()


class PackFile(BaseModel):
    """Which file to pack, and where to."""

    file: Path
    packed: Path


class PackedFile(BaseModel):
    """What became of it."""

    sha256: str
    size: int
    packed_size: int


@jobs.handler("file.pack")
def pack_file(payload: PackFile, ctx: JobService.Context) -> PackedFile:
    """Hash and compress one file. A plain function runs in a thread, so it may take its time."""
    payload.packed.parent.mkdir(parents=True, exist_ok=True)
    # A job runs at least once. Under the fence's name two attempts never write to one file, and what bears the final
    # name is always whole.
    unfinished = payload.packed.with_name(f"{payload.packed.name}.{ctx.fence}")
    digest, size = hashlib.sha256(), 0
    with payload.file.open("rb") as source, gzip.open(unfinished, "wb", compresslevel=6) as target:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            target.write(chunk)
    unfinished.replace(payload.packed)
    return PackedFile(sha256=digest.hexdigest(), size=size, packed_size=payload.packed.stat().st_size)


class BuildArchive(BaseModel):
    """A folder of packed files, and the archive to make of them."""

    packed: Path
    archive: Path


class Archive(BaseModel):
    """The finished archive."""

    files: int
    size: int


@jobs.handler("archive.build")
def build_archive(payload: BuildArchive, ctx: JobService.Context) -> Archive:
    """Put all packed files into one zip archive; submit it with `duration="long"`, then it may take hours."""
    files = sorted(payload.packed.rglob("*.gz"))
    unfinished = payload.archive.with_name(f"{payload.archive.name}.{ctx.fence}")
    with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_LZMA) as archive:
        for number, file in enumerate(files):
            if ctx.cancelled:  # a thread cannot be interrupted, so it looks for itself
                raise RuntimeError("stopped before the archive was complete")
            name = file.relative_to(payload.packed).as_posix().removesuffix(".gz")
            ctx.report_progress(100 * number / len(files), name)
            with gzip.open(file) as source, archive.open(name, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target)
    unfinished.replace(payload.archive)
    ctx.report_progress(100, f"{len(files)} files")
    return Archive(files=len(files), size=payload.archive.stat().st_size)


class OneFile(BaseModel):
    """A file to do something with."""

    file: Path


class Uploaded(BaseModel):
    """What was uploaded, and how often it was tried."""

    size: int
    attempts: int


@jobs.handler("upload.flaky")
async def upload(payload: OneFile, ctx: JobService.Context) -> Uploaded:
    """Upload a file to a server that refuses twice: whatever a handler raises, the job is retried, a little later."""
    if ctx.attempt < 3:  # noqa: PLR2004 - the third time lucky
        raise ConnectionError(f"the server is busy (attempt {ctx.attempt})")
    return Uploaded(size=payload.file.stat().st_size, attempts=ctx.attempt)


@jobs.handler("upload.slow")
async def upload_slowly(payload: OneFile) -> Uploaded:
    """Upload a file to a slow server. Submitted without an entity, many of these run side by side."""
    await asyncio.sleep(0.5)
    return Uploaded(size=payload.file.stat().st_size, attempts=1)


@jobs.handler("upload.stuck")
async def upload_for_ever(payload: OneFile, ctx: JobService.Context) -> None:
    """Upload a file to a server that never answers: `jsjobs cancel` ends it, and its `finally` runs."""
    try:
        await asyncio.sleep(24 * 3600)
    finally:
        ctx.report_progress(0, f"gave up uploading {payload.file.name}")


class CheckedJson(BaseModel):
    """What a sound JSON file holds."""

    kind: str
    items: int


@jobs.handler("json.check")
def check_json(payload: OneFile) -> CheckedJson:
    """Check that a file is what its name says. One that is not fails every time: its job dies, and waits for you."""
    data = payload.file.read_bytes()
    try:
        value: dict[str, object] | list[object] | str | float | None = json.loads(data)
    except ValueError as error:
        raise ValueError(f"{payload.file.name} is not JSON, it begins with {data[:8]!r}") from error
    return CheckedJson(kind=type(value).__name__, items=len(value) if isinstance(value, dict | list) else 1)
