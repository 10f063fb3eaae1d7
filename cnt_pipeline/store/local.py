"""A store in a local folder."""

import os
import shutil
import stat as stats
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cnt_pipeline.store import layout
from cnt_pipeline.store.digests import DigestMemory, hash_file
from cnt_pipeline.store.failures import store_errors
from cnt_pipeline.store.locks import file_lock, is_locked
from cnt_pipeline.store.manifest import FileRecord, Manifest


class LocalPlace:
    """See `place.Place`. Nothing is written, not even the root, before the first lock is taken."""

    def __init__(self, root: Path) -> None:
        self.workshop = root.expanduser().absolute()
        self.url = str(self.workshop)
        self.memory = DigestMemory(self.workshop)

    def read(self, name: str) -> bytes | None:
        with store_errors(self.workshop):
            try:
                return (self.workshop / name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes) -> None:
        path = self.workshop / name
        part = path.with_name(f".{os.urandom(6).hex()}.part")
        with store_errors(self.workshop):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                part.write_bytes(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        with store_errors(self.workshop):
            (self.workshop / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        with store_errors(self.workshop):
            try:
                return sorted(entry.name for entry in os.scandir(self.workshop / folder))
            except FileNotFoundError:
                return []

    def artifacts(self) -> Iterator[tuple[str, str]]:
        for stage in self._stages():
            yield from ((stage, name) for name in self.names(stage) if layout.is_fingerprint(name))

    def leftovers(self) -> list[layout.Leftover]:
        found = (layout.leftover(stage, name) for stage in self._stages() for name in self.names(stage))
        return [leftover for leftover in found if leftover]

    def size(self, name: str) -> int:
        with store_errors(self.workshop):
            below = self.workshop / name
            files = [below] if below.is_file() else below.rglob("*")
            return sum(path.stat().st_size for path in files if path.is_file())

    def is_torn(self, stage: str, fingerprint: str) -> bool:
        with store_errors(self.workshop):
            return (self.workshop / layout.artifact(stage, fingerprint)).exists()

    def damage(self, manifest: Manifest, thorough: bool = False) -> str | None:
        folder = self.workshop / layout.artifact(manifest.stage, manifest.fingerprint)
        with store_errors(self.workshop):
            return damage_in(folder, manifest.files, self.memory, thorough)

    @contextmanager
    def holding(self, stage: str, fingerprint: str, about: str, wait: bool = True) -> Iterator[bool]:
        with ExitStack() as stack:
            with store_errors(self.workshop):
                layout.create_root(self.workshop)
                path = self.workshop / layout.lock(stage, fingerprint)
                held = stack.enter_context(file_lock(path, about, wait))
            yield held

    def is_held(self, stage: str, fingerprint: str) -> bool:
        with store_errors(self.workshop):
            return is_locked(self.workshop / layout.lock(stage, fingerprint))

    def commit(self, folder: Path, manifest: Manifest) -> None:
        final = self.workshop / layout.artifact(manifest.stage, manifest.fingerprint)
        with store_errors(self.workshop):
            aside = self._set_aside(manifest.stage, manifest.fingerprint)
            folder.rename(final)
            sync_folder(final.parent)
            paths = {final / name: record.sha256 for name, record in manifest.files.items()}
            self.memory.remember((path, path.stat(), sha256) for path, sha256 in paths.items())
            shutil.rmtree(aside, ignore_errors=True)

    def discard(self, stage: str, fingerprint: str) -> None:
        with store_errors(self.workshop):
            aside = self._set_aside(stage, fingerprint)
            if aside.exists():
                shutil.rmtree(aside)

    def leftover_size(self, leftover: layout.Leftover) -> int:
        return self.size(leftover.name)

    def remove_leftover(self, leftover: layout.Leftover) -> None:
        with store_errors(self.workshop):
            folder = self.workshop / leftover.name
            if folder.exists():
                shutil.rmtree(folder)

    def sweep_locks(self) -> None:
        with store_errors(self.workshop):
            for name in self.names(layout.LOCKS):
                with file_lock(self.workshop / layout.LOCKS / name, name, wait=False):
                    pass

    def fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        return self.workshop / layout.artifact(manifest.stage, manifest.fingerprint)

    def _stages(self) -> list[str]:
        return [name for name in self.names("") if layout.is_stage(name) and (self.workshop / name).is_dir()]

    def _set_aside(self, stage: str, fingerprint: str) -> Path:
        """Take the final name from an artifact if there is one: a folder does not vanish at once."""
        final = self.workshop / layout.artifact(stage, fingerprint)
        aside = self.workshop / layout.Leftover(stage, fingerprint, "removed").name
        if final.exists():
            if aside.exists():
                shutil.rmtree(aside)
            final.rename(aside)
        return aside


def damage_in(folder: Path, files: dict[str, FileRecord], memory: DigestMemory, thorough: bool = False) -> str | None:
    """Which of `files` in `folder` is missing or differs, in words; remembered files are not read.

    Raises:
        OSError: the folder cannot be read at all.
    """
    found: list[tuple[Path, os.stat_result]] = []
    for name, record in files.items():
        try:
            stat = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if not stats.S_ISREG(stat.st_mode):
            return f"{name} is no file"
        if stat.st_size != record.size:
            return f"{name} has {stat.st_size} bytes, its manifest says {record.size}"
        found.append((folder / name, stat))
    recalled = [None] * len(found) if thorough else memory.recall(found)
    learned = []
    for (name, record), (path, stat), digest in zip(files.items(), found, recalled, strict=True):
        if digest is None:
            digest = hash_file(path)
            learned.append((path, stat, digest))
        if digest != record.sha256:
            return f"{name} has other content than its manifest says"
    memory.remember(learned)
    return None


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
