"""SHA-256 of files, and a memory of it so that an unchanged file is read once and not at every start."""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnt_pipeline.store import layout

# A file changed twice within its file system's clock step keeps its mtime: a fresh file is not remembered.
_SETTLED_NS = 2_000_000_000
_TABLE = """
CREATE TABLE IF NOT EXISTS digests (path TEXT PRIMARY KEY, size INT, mtime_ns INT, inode INT, sha256 TEXT)
"""


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class DigestMemory:
    """Digests by (path, size, mtime_ns, inode), kept in SQLite and shared by processes.

    It only ever saves reading: a memory that is absent, damaged or not writable costs time and is no error.
    Files of the store are remembered by their name below its root, so a store may be moved.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._file = root / layout.DIGESTS

    def recall(self, files: Sequence[tuple[Path, os.stat_result]]) -> list[str | None]:
        """The digest of each file whose stat is still the remembered one, else None."""
        import sqlite3

        unknown: list[str | None] = [None] * len(files)
        if not files or not self._file.exists():
            return unknown
        query = "SELECT sha256 FROM digests WHERE path = ? AND size = ? AND mtime_ns = ? AND inode = ?"
        try:
            reading = sqlite3.connect(f"{self._file.as_uri()}?mode=ro", uri=True, timeout=5)
            with contextlib.closing(reading) as connection:
                rows = [connection.execute(query, self._identity(*file)).fetchone() for file in files]
        except sqlite3.OperationalError:
            return unknown
        except sqlite3.DatabaseError:
            self._drop()
            return unknown
        return [row[0] if row else None for row in rows]

    def remember(self, files: Iterable[tuple[Path, os.stat_result, str]]) -> None:
        """Keep the digest of files as they were when `stat` was taken."""
        import sqlite3

        rows = [(*self._identity(path, stat), sha256) for path, stat, sha256 in files]
        if not rows:
            return
        try:
            layout.create_root(self._root)
            # No fsync: a power cut may damage the memory, which is then dropped.
            with contextlib.closing(sqlite3.connect(self._file, timeout=5)) as connection, connection:
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute(_TABLE)
                connection.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?, ?, ?, ?)", rows)
        except (OSError, sqlite3.OperationalError):
            return
        except sqlite3.DatabaseError:
            self._drop()

    def file_digest(self, path: Path) -> str:
        """SHA-256 of any file, remembered once the file has settled.

        Raises:
            OSError: the file cannot be read.
        """
        stat = path.stat()
        known = self.recall([(path, stat)])[0]
        if known:
            return known
        sha256 = hash_file(path)
        if time.time_ns() - stat.st_mtime_ns > _SETTLED_NS:
            self.remember([(path, stat, sha256)])
        return sha256

    def _identity(self, path: Path, stat: os.stat_result) -> tuple[str, int, int, int]:
        path = path.absolute()
        name = path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else str(path)
        return name, stat.st_size, stat.st_mtime_ns, stat.st_ino

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
