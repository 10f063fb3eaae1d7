"""What the operating system says, as one sentence that tells the user what to do."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cnt_pipeline.errors import StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST}
_ELSEWHERE = "name another store with --store or CNT_STORE"


@contextmanager
def store_errors(root: Path) -> Iterator[None]:
    """Turn an OSError of the store's own work below `root` into a StoreError."""
    try:
        yield
    except OSError as error:
        raise explained(error, root) from error


@contextmanager
def builder_errors(root: Path) -> Iterator[None]:
    """Turn a full disk that a builder met into a StoreError; its other errors pass as they are.

    Rust and C++ writers report the full disk in a type of their own, with the system's words in the message.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in _FULL
        if full or "no space left on device" in str(error).lower():
            raise _disk_full(root) from error
        raise


def explained(error: OSError, root: Path) -> StoreError:
    """The StoreError for an OSError met below `root`."""
    reason = error.strerror or str(error)
    where = Path(error.filename) if isinstance(error.filename, str) else root
    if error.errno in _FULL:
        return _disk_full(root)
    if error.errno in _FORBIDDEN:
        return StoreError(f"The store {root} may not be used ({reason}: {where}): allow it, or {_ELSEWHERE}")
    if error.errno in _NOT_A_FOLDER:
        return StoreError(
            f"The store {root} needs a folder where a file lies, {_blocker(where)}: move it, or {_ELSEWHERE}"
        )
    if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
        return StoreError(
            f"The disk of the store {root} has no file locks ({reason}): {_ELSEWHERE} on a disk with locks"
        )
    return StoreError(f"The store {root} failed ({reason}: {where}): check that disk, or {_ELSEWHERE}")


def _disk_full(root: Path) -> StoreError:
    free = shutil.disk_usage(_existing(root)).free
    return StoreError(
        f"The disk of the store {root} is full ({free / 1e6:.1f} MB free): make room (`cnt gc` removes what "
        f"no study reaches), or {_ELSEWHERE}"
    )


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _blocker(path: Path) -> Path:
    """The file among `path` and its parents that is no folder."""
    return next((part for part in (path, *path.parents) if part.exists() and not part.is_dir()), path)
