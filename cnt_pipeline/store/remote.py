"""A store in a bucket (any fsspec URL), with a local folder in which it builds and keeps what it fetched.

A bucket cannot rename a folder, so the manifest is the commit mark: content files are uploaded first and the
manifest last, and a folder without manifest is an upload that never ended. Rebuilding a damaged artifact
deletes its manifest first.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.store import layout
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.store.failures import store_errors
from cnt_pipeline.store.local import LocalPlace, damage_in
from cnt_pipeline.store.locks import is_leased, lease
from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.study.fingerprint import sha256_text

_OWNER = ".owner"

# A memory:// store ends with its process, and so does its cache.
_memory_caches: dict[str, tempfile.TemporaryDirectory[str]] = {}


class RemotePlace:
    """See `place.Place`. `cache` is by default a folder of this URL in the user's cache folder."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        import fsspec

        self.url = url.rstrip("/")
        try:
            self._fs, root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            raise StoreError(
                f"The store {url} needs a package that is not installed ({error}): `pip install` it"
            ) from error
        except ValueError as error:
            raise StoreError(f"The store {url} cannot be opened ({error}): name a folder or an fsspec URL") from error
        self._root = str(root).rstrip("/")
        self._cache = LocalPlace(cache or _default_cache(self.url))
        self.workshop = self._cache.workshop
        self.memory = self._cache.memory

    def read(self, name: str) -> bytes | None:
        with self._errors():
            try:
                content: bytes = self._fs.cat_file(self._path(name))
            except FileNotFoundError:
                return None
            return content

    def write(self, name: str, data: bytes) -> None:
        with self._errors():
            self._put(name, lambda path: self._fs.pipe_file(path, data))

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it is there; exclusive where the file system can do that."""
        with self._errors():
            if self._fs.exists(self._path(name)):
                return False
            try:
                self._fs.pipe_file(self._path(name), data, mode="create")
            except FileExistsError:
                return False
            except (FileNotFoundError, TypeError):
                self.write(name, data)
            return True

    def delete(self, name: str) -> None:
        with self._errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def names(self, folder: str) -> list[str]:
        return sorted(path.rstrip("/").rpartition("/")[2] for path in self._listing(folder))

    def artifacts(self) -> Iterator[tuple[str, str]]:
        for stage in filter(layout.is_stage, self.names("")):
            yield from ((stage, name) for name in self.names(stage) if layout.is_fingerprint(name))

    def leftovers(self) -> list[layout.Leftover]:
        return self._cache.leftovers()

    def size(self, name: str) -> int:
        return sum(self._sizes(name).values())

    def is_torn(self, stage: str, fingerprint: str) -> bool:
        return False

    def damage(self, manifest: Manifest, thorough: bool = False) -> str | None:
        sizes = self._sizes(layout.artifact(manifest.stage, manifest.fingerprint))
        for name, record in manifest.files.items():
            if name not in sizes:
                return f"{name} is missing"
            if sizes[name] != record.size:
                return f"{name} has {sizes[name]} bytes, its manifest says {record.size}"
        if thorough:
            self._cache.discard(manifest.stage, manifest.fingerprint)
            with suppress(BrokenArtifactError):
                self.fetch(manifest, list(manifest.files))
        return self._found_damaged(manifest)

    @contextmanager
    def holding(self, stage: str, fingerprint: str, about: str, wait: bool = True) -> Iterator[bool]:
        with ExitStack() as stack:
            held = stack.enter_context(self._cache.holding(stage, fingerprint, about, wait))
            if held:
                name = layout.lock(stage, fingerprint)
                held = stack.enter_context(lease(self, name, self._owner(), about, wait))
            yield held

    def is_held(self, stage: str, fingerprint: str) -> bool:
        if self._cache.is_held(stage, fingerprint):
            return True
        return is_leased(self, layout.lock(stage, fingerprint), self._owner())

    def commit(self, folder: Path, manifest: Manifest) -> None:
        final = layout.artifact(manifest.stage, manifest.fingerprint)
        self.delete(f"{final}/{layout.MANIFEST}")
        self._cache.delete(_damage_note(manifest))
        with self._errors():
            for name in manifest.files:
                self._put(f"{final}/{name}", partial(self._fs.put_file, str(folder / name)))
        damage = self.damage(manifest)
        if damage:
            raise StoreError(f"The upload to {self.url} did not arrive whole ({damage}): run again")
        self.write(f"{final}/{layout.MANIFEST}", manifest.to_json().encode())
        self._cache.commit(folder, manifest)

    def discard(self, stage: str, fingerprint: str) -> None:
        folder = layout.artifact(stage, fingerprint)
        self.delete(f"{folder}/{layout.MANIFEST}")
        with self._errors(), suppress(FileNotFoundError):
            self._fs.rm(self._path(folder), recursive=True)
        self._cache.discard(stage, fingerprint)

    def leftover_size(self, leftover: layout.Leftover) -> int:
        return self._cache.leftover_size(leftover)

    def remove_leftover(self, leftover: layout.Leftover) -> None:
        self._cache.remove_leftover(leftover)

    def sweep_locks(self) -> None:
        self._cache.sweep_locks()

    def fetch(self, manifest: Manifest, names: Sequence[str]) -> Path:
        artifact = layout.artifact(manifest.stage, manifest.fingerprint)
        folder = self.workshop / artifact
        for name in names:
            with store_errors(self.workshop):
                layout.create_root(self.workshop)
                if damage_in(folder, {name: manifest.files[name]}, self.memory) is None:
                    continue
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
            part = (folder / name).with_name(f".{os.urandom(6).hex()}.part")
            try:
                damage = self._download(manifest, name, part)
                if damage:
                    self._note_damage(manifest, damage)
                    raise BrokenArtifactError(
                        f"The artifact {artifact} of {self.url} is damaged ({damage}): `cnt run` rebuilds it"
                    )
                with store_errors(self.workshop):
                    part.replace(folder / name)
            finally:
                part.unlink(missing_ok=True)
        return folder

    def _download(self, manifest: Manifest, name: str, part: Path) -> str | None:
        """Fetch one file to `part`; what is wrong with it, or None."""
        with self._errors():
            try:
                remote = f"{layout.artifact(manifest.stage, manifest.fingerprint)}/{name}"
                self._fs.get_file(self._path(remote), str(part))
            except FileNotFoundError:
                return f"{name} is missing"
        with store_errors(self.workshop):
            stat, sha256 = part.stat(), hash_file(part)
            if sha256 != manifest.files[name].sha256:
                return f"{name} has other content than its manifest says"
            self.memory.remember([(part.with_name(Path(name).name), stat, sha256)])
        return None

    def _note_damage(self, manifest: Manifest, damage: str) -> None:
        """Sizes do not show every damage: what a fetch found is noted, for the next request to rebuild it."""
        self._cache.write(_damage_note(manifest), f"{manifest.created}\n{damage}".encode())

    def _found_damaged(self, manifest: Manifest) -> str | None:
        note = self._cache.read(_damage_note(manifest))
        created, _, damage = (note or b"").decode().partition("\n")
        return damage if created == manifest.created else None

    def _put(self, name: str, put: Callable[[str], object]) -> None:
        """Write an object, making its folder first where the file system has folders."""
        path = self._path(name)
        try:
            put(path)
        except FileNotFoundError:
            self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            put(path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _owner(self) -> str:
        """Name of the cache folder, made once: holders of its leases held its file locks."""
        path = self.workshop / _OWNER
        with store_errors(self.workshop):
            layout.create_root(self.workshop)
            if not path.exists():
                part = path.with_name(f"{_OWNER}.{os.urandom(4).hex()}")
                part.write_text(os.urandom(16).hex())
                # The first of several processes names the folder for all.
                with suppress(FileExistsError):
                    path.hardlink_to(part)
                part.unlink()
            return path.read_text()

    def _listing(self, folder: str) -> list[str]:
        with self._errors():
            path = self._path(folder).rstrip("/")
            self._fs.invalidate_cache(path)
            try:
                found: list[str] = self._fs.ls(path, detail=False)
            except FileNotFoundError:
                return []
            return found

    def _sizes(self, folder: str) -> dict[str, int]:
        """Size of every file below a folder, by its name in it."""
        with self._errors():
            path = self._path(folder)
            self._fs.invalidate_cache(path)
            try:
                found: dict[str, Any] = self._fs.find(path, detail=True)
            except FileNotFoundError:
                return {}
            # Some file systems list paths with a leading slash and some without.
            start = len(path.strip("/")) + 1
            return {name.strip("/")[start:]: int(entry["size"]) for name, entry in found.items()}

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Every fsspec backend has errors of its own; to the user they are one: the URL does not answer."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(
                f"The store {self.url} cannot be used ({type(error).__name__}: {error}): check the URL, the "
                "credentials and the connection, or name another store with --store"
            ) from error


def _damage_note(manifest: Manifest) -> str:
    return f"{manifest.stage}/.{manifest.fingerprint}.damage"


def _default_cache(url: str) -> Path:
    if url.startswith("memory:"):
        if url not in _memory_caches:
            _memory_caches[url] = tempfile.TemporaryDirectory(prefix="cnt_pipeline_")
        return Path(_memory_caches[url].name)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "cnt_pipeline" / sha256_text(url)[:16]
