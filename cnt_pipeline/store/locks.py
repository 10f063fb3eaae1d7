"""One builder per fingerprint: a file lock on this machine, and a lease object in a shared bucket.

The kernel frees a file lock when its process dies, however it dies. A lease is best effort: buckets have no
locks, so it is an object with its holder and an expiry that a living holder keeps moving forward. Two
machines that both take it by bad luck do the same work twice and publish the same content; nothing breaks.
"""

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cnt_pipeline.errors import StoreError

log = logging.getLogger(__name__)

LEASE_SECONDS = 120.0
_POLL_SECONDS = (0.05, 2.0)

_held: set[int] = set()


def _release_in_child() -> None:
    """A forked worker shares its parent's locks and could outlive it: it gives its copies back."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def file_lock(path: Path, about: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lock at `path`; the value is False when it is another's and `wait` is False.

    `about` is what the log names while waiting. The file is deleted on release; after a kill it stays, free.

    Raises:
        OSError: the folder cannot be written, or its disk has no locks.
    """
    descriptor = _acquire(path, about, wait)
    if descriptor is None:
        yield False
        return
    _held.add(descriptor)
    try:
        _write_holder(descriptor)
        yield True
    finally:
        # In a forked child the descriptor is given back already, and the file is its parent's.
        if descriptor in _held:
            _held.discard(descriptor)
            # A lock file that cannot be deleted does no harm: it is free.
            with suppress(OSError):
                path.unlink()
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock at `path`; writes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _acquire(path: Path, about: str, wait: bool) -> int | None:
    announced = False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    os.close(descriptor)
                    return None
                if not announced:
                    holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "another process"
                    log.info("waiting for %s: %s is building it", about, holder)
                    announced = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_file_at(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The holder deleted the file on release: what was locked here is no longer the lock.
        os.close(descriptor)


def _is_file_at(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _write_holder(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{holder_name()} since {_now()}".encode(), 0)


def holder_name() -> str:
    """This process, as the log of another names it."""
    return f"process {os.getpid()} on {os.uname().nodename}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class Objects(Protocol):
    """What a lease needs of a bucket."""

    def read(self, name: str) -> bytes | None:
        """Content of an object, or None."""

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless it is there; whether it was written."""

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""

    def delete(self, name: str) -> None:
        """Delete an object that may be absent."""


@contextmanager
def lease(objects: Objects, name: str, owner: str, about: str, wait: bool = True) -> Iterator[bool]:
    """Hold the lease object `name`; False when another holds it and `wait` is False.

    `owner` names a place that only one process can build from at a time (the caller holds its file lock), so
    a lease of the same owner was left by a killed process and is taken over at once; any other is taken over
    when it expires.
    """
    token = os.urandom(8).hex()

    def mine() -> bytes:
        expires = time.time() + LEASE_SECONDS
        return json.dumps({"holder": holder_name(), "owner": owner, "token": token, "expires": expires}).encode()

    if not _take(objects, name, owner, token, mine, about, wait):
        yield False
        return
    ended = threading.Event()
    beat = threading.Thread(target=_renew, args=(objects, name, mine, ended), daemon=True)
    beat.start()
    try:
        yield True
    finally:
        ended.set()
        beat.join()
        if _holder(objects, name).get("token") == token:
            objects.delete(name)


def is_leased(objects: Objects, name: str, owner: str) -> bool:
    """Whether another owner than `owner` holds the lease `name`; writes nothing."""
    return _is_live(_holder(objects, name), owner)


def _is_live(record: dict[str, Any], owner: str) -> bool:
    return record.get("owner") != owner and float(record.get("expires", 0)) >= time.time()


def _take(
    objects: Objects, name: str, owner: str, token: str, mine: Callable[[], bytes], about: str, wait: bool
) -> bool:
    pause, longest = _POLL_SECONDS
    announced = False
    while True:
        if objects.create(name, mine()):
            if _holder(objects, name).get("token") == token:
                return True
            continue
        other = _holder(objects, name)
        if not _is_live(other, owner):
            objects.write(name, mine())
            if _holder(objects, name).get("token") == token:
                return True
            continue
        if not wait:
            return False
        if not announced:
            log.info("waiting for %s: %s is building it", about, other.get("holder", "another machine"))
            announced = True
        time.sleep(pause)
        pause = min(2 * pause, longest)


def _renew(objects: Objects, name: str, mine: Callable[[], bytes], ended: threading.Event) -> None:
    while not ended.wait(LEASE_SECONDS / 3):
        try:
            objects.write(name, mine())
        except StoreError as error:
            log.warning("the lease %s could not be renewed: %s", name, error)


def _holder(objects: Objects, name: str) -> dict[str, Any]:
    """The lease as read; an unreadable one is nobody's."""
    try:
        record = json.loads(objects.read(name) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
