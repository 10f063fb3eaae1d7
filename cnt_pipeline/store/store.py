"""The artifact store: a step is looked up by its fingerprint, and built once when it is not there."""

import logging
import shutil
import time
from collections.abc import Iterator, Set
from pathlib import Path

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.store import collect as collecting
from cnt_pipeline.store import layout
from cnt_pipeline.store.artifact import Artifact, Built, State
from cnt_pipeline.store.heads import Head, read_head, read_heads, write_head
from cnt_pipeline.store.local import LocalPlace
from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.store.place import Place
from cnt_pipeline.store.publish import Builder, build_and_seal, open_staging
from cnt_pipeline.store.request import BuildRequest, differences

log = logging.getLogger(__name__)


class Store:
    """Artifacts in a local folder or at any fsspec URL (`s3://bucket/prefix`, `memory://name`).

    Opening a store reads and writes nothing. `cache` is where a remote store builds and keeps fetched files.

    Raises:
        StoreError: the URL's protocol is unknown or its package is not installed.
    """

    def __init__(self, url: str | Path, cache: Path | None = None) -> None:
        self._place: Place = _place(url, cache)

    @property
    def url(self) -> str:
        """The folder or URL."""
        return self._place.url

    def get(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact, or None when it was never built.

        Raises:
            BrokenArtifactError: it is there but damaged.
            StoreError: the store cannot be read, or holds a manifest of a later version.
        """
        manifest, state = self._inspect(stage, fingerprint)
        if state.word == "broken":
            raise BrokenArtifactError(
                f"The artifact {stage}/{layout.short(fingerprint)} is damaged ({state.reason}): "
                "`cnt run` builds it again"
            )
        return Artifact(manifest, self._place) if manifest else None

    def state(self, stage: str, fingerprint: str, thorough: bool = False) -> State:
        """Whether the artifact can be used; `thorough` reads every byte and trusts no remembered digest."""
        return self._inspect(stage, fingerprint, thorough)[1]

    def get_or_build(self, request: BuildRequest, build: Builder) -> Built:
        """The artifact that answers `request`; if it is missing or damaged, `build(folder)` makes its files.

        `build` writes files below `folder` and returns metadata (JSON) for the manifest. Its folder gets its
        final name only when it returned and everything is on disk; whatever it raises passes through and
        leaves nothing. The folder is empty, except for a `resumable` request whose build was killed or
        interrupted: then it is as it was left. Another process that builds the same fingerprint is waited
        for.

        Raises:
            StoreError: the store cannot be written, or its disk is full.
        """
        began = time.perf_counter()

        def answer(manifest: Manifest, hit: bool) -> Built:
            self._record(request, manifest)
            return Built(Artifact(manifest, self._place), hit, time.perf_counter() - began)

        fingerprint = request.fingerprint
        manifest, state = self._inspect(request.stage, fingerprint)
        if manifest and state.word == "cached":
            return answer(manifest, hit=True)
        with self._place.holding(request.stage, fingerprint, request.key):
            manifest, state = self._inspect(request.stage, fingerprint)
            if manifest and state.word == "cached":
                return answer(manifest, hit=True)
            if state.word == "broken":
                log.warning("%s is damaged (%s): building it again", request.key, state.reason)
            return answer(self._build(request, build), hit=False)

    def annotate(self, artifact: Artifact, name: str, text: str) -> None:
        """Put a text file beside an artifact's content, in no digest; the next of its name replaces it.

        Raises:
            ValueError: `name` is a path, or a file of the artifact itself.
        """
        if "/" in name or name.startswith(".") or name in {*artifact.manifest.files, layout.MANIFEST}:
            raise ValueError(f"{name!r} cannot annotate {artifact.manifest.key}: give a plain name, no content file's")
        folder = layout.artifact(artifact.manifest.stage, artifact.manifest.fingerprint)
        if self._place.read(f"{folder}/{layout.MANIFEST}") is None:
            raise StoreError(f"{artifact.uri} is no longer in the store: `cnt run` builds it again")
        data = text.encode()
        if self._place.read(f"{folder}/{name}") != data:
            self._place.write(f"{folder}/{name}", data)

    def annotation(self, artifact: Artifact, name: str) -> str | None:
        """Text that `annotate` put there, or None."""
        path = f"{layout.artifact(artifact.manifest.stage, artifact.manifest.fingerprint)}/{name}"
        data = self._place.read(path)
        return None if data is None else data.decode()

    def head(self, study: str, key: str) -> Manifest | None:
        """The manifest that the step `key` of `study` was last built or found with."""
        head = read_head(self._place, study, key)
        return head.manifest if head else None

    def heads(self, study: str | None = None) -> list[Head]:
        """The newest manifest of every step, of one study or of all."""
        found = (head for _, head in read_heads(self._place) if head)
        return [head for head in found if study is None or head.study == study]

    def explain(self, request: BuildRequest) -> str:
        """Why the step is to build: what differs from its head, in words; `cached` when it is not."""
        _, state = self._inspect(request.stage, request.fingerprint)
        if state.word == "cached":
            return "cached"
        if state.word == "broken":
            return f"damaged: {state.reason}"
        head = self.head(request.study, request.key)
        if head is None:
            return "never built"
        if head.fingerprint == request.fingerprint:
            return "removed from the store"
        return differences(request, head)

    def artifacts(self, stage: str | None = None) -> Iterator[Manifest]:
        """The manifest of every artifact that has a readable one; files are not checked."""
        for found, fingerprint in self._place.artifacts():
            if stage in (None, found):
                manifest, _ = self._read_manifest(found, fingerprint)
                if manifest:
                    yield manifest

    def collect(self, keep: Set[tuple[str, str]], dry_run: bool = False) -> list[collecting.Removed]:
        """Remove artifacts whose (stage, fingerprint) is not in `keep`, stale staging and orphan heads."""
        return collecting.collect(self._place, keep, dry_run)

    def file_digest(self, path: Path) -> str:
        """SHA-256 of any local file, remembered in the store by (path, size, mtime, inode).

        Raises:
            OSError: the file cannot be read.
        """
        return self._place.memory.file_digest(path)

    def _build(self, request: BuildRequest, build: Builder) -> Manifest:
        """Build under the lock. An error leaves nothing, an interrupt what can be resumed, a kill staging."""
        workshop = self._place.workshop
        folder = open_staging(workshop, request)
        try:
            manifest = build_and_seal(folder, workshop, request, build)
            self._place.commit(folder, manifest)
        except BaseException as error:
            if isinstance(error, Exception) or not request.resumable:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        log.info("built %s in %.1f s (%s)", request.key, manifest.seconds, layout.short(manifest.fingerprint))
        return manifest

    def _inspect(self, stage: str, fingerprint: str, thorough: bool = False) -> tuple[Manifest | None, State]:
        manifest, state = self._read_manifest(stage, fingerprint)
        if manifest:
            damage = self._place.damage(manifest, thorough)
            if damage:
                return manifest, State("broken", damage)
        return manifest, state

    def _read_manifest(self, stage: str, fingerprint: str) -> tuple[Manifest | None, State]:
        text = self._place.read(f"{layout.artifact(stage, fingerprint)}/{layout.MANIFEST}")
        if text is None:
            torn = self._place.is_torn(stage, fingerprint)
            return None, State("broken", f"{layout.MANIFEST} is missing") if torn else State("missing")
        try:
            manifest = Manifest.from_json(text)
        except BrokenArtifactError as error:
            return None, State("broken", str(error))
        if (manifest.stage, manifest.fingerprint) != (stage, fingerprint):
            return None, State("broken", f"{layout.MANIFEST} belongs to another artifact")
        return manifest, State("cached")

    def _record(self, request: BuildRequest, manifest: Manifest) -> None:
        try:
            write_head(self._place, request.study, request.key, manifest)
        except StoreError as error:
            # A store that may only be read still answers; lost are the words of the next `explain`.
            log.debug("the head of %s was not recorded: %s", request.key, error)


def _place(url: str | Path, cache: Path | None) -> Place:
    text = str(url)
    if isinstance(url, Path) or ("://" not in text and "::" not in text):
        return LocalPlace(Path(text))
    for scheme in ("file://", "local://"):
        if text.startswith(scheme):
            return LocalPlace(Path(text.removeprefix(scheme)))
    from cnt_pipeline.store.remote import RemotePlace

    return RemotePlace(text, cache)
