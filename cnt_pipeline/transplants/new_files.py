"""New files that appear all together or not at all, and the disk's refusals as sentences."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cnt_pipeline.errors import StoreError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the disk's refusal to write `path` into a `StoreError` of one sentence."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free space, then run again" if full else "mend its permissions or choose another folder"
        raise StoreError(f"{path} cannot be written ({error.strerror or error}): {advice}") from None


@contextmanager
def new_files(folder: Path, needed: int) -> Iterator[Callable[[Path], Path]]:
    """A folder that gets new files all together or not at all.

    Yields a function that registers a path about to be written and makes its parents. When the block ends
    by any exception, every registered file and every folder made here is removed. Raises `StoreError` when
    `needed` bytes do not fit on the disk.
    """
    files: list[Path] = []
    made: list[Path] = []

    def make(path: Path) -> None:
        if not path.is_dir():
            make(path.parent)
            path.mkdir()
            made.append(path)

    def claim(path: Path) -> Path:
        if path.exists():
            raise StoreError(f"{path} exists already: remove it or choose another folder")
        with writing(path):
            make(path.parent)
        files.append(path)
        return path

    try:
        with writing(folder):
            make(folder)
            free = shutil.disk_usage(folder).free
        if needed > free:
            raise StoreError(
                f"{folder} needs {needed / 1e9:.2f} GB and its disk has {free / 1e9:.2f} GB left: free space "
                "or choose another disk"
            )
        yield claim
    except BaseException:
        for path in files:
            path.unlink(missing_ok=True)
        for path in reversed(made):
            path.rmdir()
        raise


@contextmanager
def built_beside(place: Path) -> Iterator[Path]:
    """A hidden name beside `place` to build a folder under, which takes the name `place` when the block ends well and
    is removed otherwise. Raises `StoreError` when `place` holds something already or cannot be made."""
    place = place.expanduser().absolute()
    with writing(place):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise StoreError(f"{place} exists already and is not an empty folder: name another, or remove it")
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        yield partial
        with writing(place):
            partial.rename(place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_folder(place: Path, needed: int) -> Iterator[Callable[[str], Path]]:
    """A folder that appears under its name with all its files on the disk, or not at all, even when killed.

    Yields a function that registers a file about to be written, by its name in the folder, and says where to write it.
    Raises `StoreError` when `place` holds something already, and as `new_files`.
    """
    files: list[Path] = []
    with built_beside(place) as partial, new_files(partial, needed) as claim:

        def register(name: str) -> Path:
            files.append(claim(partial / name))
            return files[-1]

        yield register
        with writing(place):
            for file in files:
                with file.open("rb") as stream:
                    os.fsync(stream.fileno())
