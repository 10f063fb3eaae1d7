"""From an empty staging folder to a sealed one: build, make durable, hash, write the manifest."""

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cnt_pipeline import __version__
from cnt_pipeline.errors import StoreError
from cnt_pipeline.store import layout
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.store.failures import builder_errors, store_errors
from cnt_pipeline.store.local import sync_folder
from cnt_pipeline.store.manifest import JSON, FileRecord, Manifest, content_digest, plain
from cnt_pipeline.store.request import BuildRequest

Builder = Callable[[Path], Mapping[str, JSON] | None]

_PACKAGES = ("torch", "transformers", "numpy", "polars", "duckdb", "pyarrow", "safetensors", "datasets", "gguf")
_HASHING_THREADS = 4


def open_staging(workshop: Path, request: BuildRequest) -> Path:
    """The folder to build in: empty, or what a killed build of a resumable step left. Its lock is held."""
    folder = workshop / layout.staging(request.stage, request.fingerprint, request.resumable)
    with store_errors(workshop):
        if folder.exists() and not request.resumable:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / layout.MANIFEST).unlink(missing_ok=True)
    return folder


def build_and_seal(folder: Path, workshop: Path, request: BuildRequest, build: Builder) -> Manifest:
    """Run the builder in `folder`, then hash and fsync every file and write the manifest beside them.

    Raises:
        StoreError: the disk is full, or the builder left something that cannot be stored.
    """
    began = time.perf_counter()
    with builder_errors(workshop):
        metadata = build(folder)
    seconds = time.perf_counter() - began
    with store_errors(workshop):
        files = _settle(folder, request.key)
    manifest = Manifest(
        key=request.key,
        stage=request.stage,
        stage_version=request.version,
        fingerprint=request.fingerprint,
        slice=request.plain_slice,
        inputs=dict(request.inputs),
        files=files,
        digest=content_digest(files),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        metadata=plain(metadata or {}),
    )
    with store_errors(workshop):
        path = folder / layout.MANIFEST
        text = manifest.to_json()
        path.write_text(text, encoding="utf-8")
        _sync(path)
        for inner in sorted({(folder / name).parent for name in files} | {folder}, reverse=True):
            sync_folder(inner)
    # As a later run reads it, order of keys included: what is made from it is the same either way.
    return Manifest.from_json(text)


def environment() -> dict[str, Any]:
    """Versions and machine that a build ran on; in no digest."""
    from importlib.metadata import PackageNotFoundError, version

    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    system = os.uname()
    return {
        "cnt_pipeline": __version__,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "packages": packages,
        "system": f"{system.sysname} {system.release} {system.machine}",
        "processors": os.cpu_count(),
        "processor": _processor(),
    }


def _processor() -> str:
    """The processor's model: products of floats may differ in the last digits from one to another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


def _settle(folder: Path, key: str) -> dict[str, FileRecord]:
    """fsync and hash every file below `folder`; records in the order of their names."""
    names = _content_names(folder, key)
    paths = [folder / name for name in names]
    if len(paths) == 1:
        return {names[0]: _settle_file(paths[0])}
    from concurrent.futures import ThreadPoolExecutor

    # Hashing frees the interpreter lock and a journaling disk serves several fsyncs at once.
    with ThreadPoolExecutor(_HASHING_THREADS) as pool:
        return dict(zip(names, pool.map(_settle_file, paths), strict=True))


def _content_names(folder: Path, key: str) -> list[str]:
    names = []
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise StoreError(
                f"The step {key} left {name}, which is no plain file: an artifact must hold its own content"
            )
        if name == layout.MANIFEST:
            raise StoreError(
                f"The step {key} wrote {name}, the name that the store keeps for itself: call it otherwise"
            )
        if path.is_file():
            names.append(name)
    if not names:
        raise StoreError(
            f"The step {key} wrote no file, and without content nothing can depend on it: write at least one"
        )
    return sorted(names)


def _settle_file(path: Path) -> FileRecord:
    before = path.stat()
    _sync(path)
    sha256 = hash_file(path)
    after = path.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise StoreError(f"{path.name} changed while the store read it: let the step end its writers before it returns")
    return FileRecord(sha256, after.st_size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
