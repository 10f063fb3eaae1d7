"""The manifest: what an artifact is, what it was made from, and the digest of every file in it."""

import fnmatch
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text

SCHEMA_VERSION = 1

JSON = Mapping[str, "JSON"] | Sequence["JSON"] | str | int | float | bool | None


@dataclass(frozen=True)
class FileRecord:
    """One content file: SHA-256 in hex and size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything that is known of an artifact without opening its files.

    `digest` covers names and content of the files and nothing else: `created`, `seconds`, `environment` and
    `metadata` may differ between two builds of the same step, the digest may not.
    """

    key: str
    stage: str
    stage_version: int
    fingerprint: str
    slice: dict[str, Any]
    inputs: dict[str, str]
    files: dict[str, FileRecord]
    digest: str
    environment: dict[str, Any]
    created: str
    seconds: float
    metadata: dict[str, Any]
    schema_version: int = SCHEMA_VERSION

    @property
    def size(self) -> int:
        """Bytes of all content files."""
        return sum(record.size for record in self.files.values())

    def digest_of(self, names: Sequence[str] | None) -> str:
        """Content digest of the files that match any of `names` (shell patterns); None means all files.

        Raises:
            KeyError: a pattern that matches no file, since its digest would never change.
        """
        if names is None:
            return self.digest
        chosen: dict[str, FileRecord] = {}
        for pattern in names:
            matching = [name for name in self.files if fnmatch.fnmatchcase(name, pattern)]
            if not matching:
                raise KeyError(f"{self.key} has no file {pattern}; it has {', '.join(self.files)}")
            chosen |= {name: self.files[name] for name in matching}
        return content_digest(chosen)

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            BrokenArtifactError: not a manifest, or its digest does not follow from its file records.
            StoreError: written by a later version of cnt_pipeline.
        """
        try:
            document = json.loads(text)
        except ValueError:
            raise BrokenArtifactError("manifest.json is not readable JSON") from None
        return cls.from_document(document)

    @classmethod
    def from_document(cls, document: Any) -> "Manifest":
        """Same as `from_json`, from parsed JSON."""
        if not isinstance(document, dict) or not isinstance(document.get("schema_version"), int):
            raise BrokenArtifactError("manifest.json is not a manifest")
        if document["schema_version"] > SCHEMA_VERSION:
            raise StoreError(
                "The store was written by a later cnt_pipeline (manifest schema "
                f"{document['schema_version']}, this one reads up to {SCHEMA_VERSION}): "
                "upgrade cnt_pipeline, or name another store with --store"
            )
        try:
            files = {name: FileRecord(**record) for name, record in document["files"].items()}
            manifest = cls(**{**document, "files": files})
        except (TypeError, KeyError, AttributeError):
            raise BrokenArtifactError("manifest.json lacks fields or holds unknown ones") from None
        if manifest.digest != content_digest(files):
            raise BrokenArtifactError("manifest.json was altered: its digest does not follow from its files")
        return manifest


def content_digest(files: Mapping[str, FileRecord]) -> str:
    """Content digest of a set of files: SHA-256 of the canonical JSON of `{name: sha256}`."""
    return sha256_text(canonical_json({name: record.sha256 for name, record in files.items()}))


def plain(value: Any) -> Any:
    """`value` as plain JSON: tuples become lists, paths text, numpy scalars numbers, NaN and infinity null.

    Raises:
        TypeError: something that JSON cannot hold.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [plain(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    if callable(getattr(value, "tolist", None)):
        return plain(value.tolist())
    raise TypeError(f"metadata of type {type(value).__name__} is not JSON")
