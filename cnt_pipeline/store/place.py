"""What the store asks of the place where its artifacts lie. Names are relative, with `/` (see `layout`)."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from cnt_pipeline.store.digests import DigestMemory
from cnt_pipeline.store.layout import Leftover
from cnt_pipeline.store.manifest import Manifest


class Place(Protocol):
    """A local folder (`LocalPlace`) or a bucket with a local cache (`RemotePlace`).

    Every method raises StoreError, one sentence that says what to do, when the place cannot be used.
    """

    url: str
    workshop: Path
    """Local root in which staging folders lie."""
    memory: DigestMemory

    def read(self, name: str) -> bytes | None:
        """Content of a small file, or None when it is absent."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file so that a reader sees the old or the new content."""

    def delete(self, name: str) -> None:
        """Delete a small file that may be absent."""

    def names(self, folder: str) -> list[str]:
        """Names in a folder, sorted; none when it is absent."""

    def artifacts(self) -> Iterator[tuple[str, str]]:
        """Every (stage, fingerprint) that has a folder, damaged or not, in sorted order."""

    def leftovers(self) -> list[Leftover]:
        """Folders that killed processes left, or that living ones are writing."""

    def size(self, name: str) -> int:
        """Bytes of a file or below a folder."""

    def is_torn(self, stage: str, fingerprint: str) -> bool:
        """Whether an artifact without manifest is damage (else: an upload that never ended)."""

    def damage(self, manifest: Manifest, thorough: bool = False) -> str | None:
        """Which file differs from the manifest and how, or None. `thorough` reads every byte again."""

    def holding(self, stage: str, fingerprint: str, about: str, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the lock of one fingerprint; False when it is another's and `wait` is False."""

    def is_held(self, stage: str, fingerprint: str) -> bool:
        """Whether someone is building this fingerprint; writes nothing."""

    def commit(self, folder: Path, manifest: Manifest) -> None:
        """Give a sealed staging folder its final name, in place of a damaged artifact if there is one."""

    def discard(self, stage: str, fingerprint: str) -> None:
        """Remove an artifact; a kill on the way leaves nothing under its final name."""

    def leftover_size(self, leftover: Leftover) -> int:
        """Bytes of what a killed process left."""

    def remove_leftover(self, leftover: Leftover) -> None:
        """Remove what a killed process left."""

    def sweep_locks(self) -> None:
        """Remove the locks of killed processes."""

    def fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        """Local folder in which the content files `names` lie, verified."""
