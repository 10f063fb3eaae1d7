"""A folder that appears whole or not at all, and copies checked against their recorded digests."""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnt_pipeline.errors import BrokenArtifactError, InputError, StoreError

_CHUNK = 8 << 20


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that takes its name when the block ends well, and else is removed.

    Raises:
        InputError: `destination` holds something.
        StoreError: it cannot be written.
    """
    place = destination.expanduser().absolute()
    partial = place.with_name(f".{place.name}.{secrets.token_hex(4)}.partial")
    try:
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{destination} exists and is not an empty folder: name another, or remove it")
        partial.mkdir(parents=True)
        yield partial
        partial.rename(place)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free space" if full else "name a folder that you may write to"
        raise StoreError(
            f"{destination} cannot be written ({error.strerror or error}): {advice}, then try again"
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def copy_checked(source: Path, place: Path, sha256: str) -> None:
    """Copy a file of the store, with its bytes on disk before this returns.

    Raises:
        BrokenArtifactError: what was read does not have the recorded digest.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, place.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if digest.hexdigest() != sha256:
        raise BrokenArtifactError(f"{source} is damaged, so nothing was exported: `cnt run` builds it again")
