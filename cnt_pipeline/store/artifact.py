"""What the store answers with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from cnt_pipeline.store import layout
from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.store.place import Place


class State(NamedTuple):
    """Whether an artifact can be used, and for a broken one which file is at fault and how."""

    word: Literal["cached", "missing", "broken"]
    reason: str = ""


@dataclass(frozen=True)
class Artifact:
    """A stored result. Its content never changes; a change of content is another artifact."""

    manifest: Manifest
    _place: Place = field(repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Content digest of the whole artifact, 64 hex digits."""
        return self.manifest.digest

    @property
    def uri(self) -> str:
        """Where it lies in the store."""
        return f"{self._place.url}/{layout.artifact(self.manifest.stage, self.manifest.fingerprint)}"

    def path(self, name: str) -> Path:
        """Local path of one content file; a remote store's is fetched and verified first.

        Raises:
            BrokenArtifactError: what was fetched differs from the manifest.
            KeyError: the artifact has no such file.
        """
        if name not in self.manifest.files:
            raise KeyError(f"{self.manifest.key} has no file {name}; it has {', '.join(self.manifest.files)}")
        return self._place.fetch(self.manifest, [name]) / name

    def folder(self) -> Path:
        """Local folder with every content file, fetched as by `path`; other files may lie there too."""
        return self._place.fetch(self.manifest, list(self.manifest.files))

    def digest_of(self, names: Sequence[str] | None) -> str:
        """As `Manifest.digest_of`."""
        return self.manifest.digest_of(names)


@dataclass(frozen=True)
class Built:
    """Answer to a request: the artifact, whether it was there already, and the seconds this answer took."""

    artifact: Artifact
    hit: bool
    seconds: float
