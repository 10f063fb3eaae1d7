"""A folder that appears whole or not at all, and copies checked against their recorded digests."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.transplants.new_files import built_beside

_CHUNK = 8 << 20


@contextmanager
def whole_folder(destination: Path) -> Iterator[Path]:
    """A folder beside `destination` that takes its name when the block ends well, and else is removed.

    Raises:
        StoreError: `destination` holds something, or cannot be written.
    """
    try:
        with built_beside(destination) as partial:
            partial.mkdir(parents=True)
            yield partial
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free space" if full else "name a folder that you may write to"
        raise StoreError(
            f"{destination} cannot be written ({error.strerror or error}): {advice}, then try again"
        ) from None


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
