"""Heads: for each step of each study, a copy of the manifest that it was last built or found with.

A head is a memo that lets the store say why a step is to build; a lost one costs that sentence and nothing
else.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.store import layout
from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.store.place import Place


@dataclass(frozen=True)
class Head:
    """Step `key` of `study` and its newest manifest."""

    study: str
    key: str
    manifest: Manifest


def read_head(place: Place, study: str, key: str) -> Head | None:
    """The head of one step; None when there is none or it is unreadable."""
    return _parsed(place.read(layout.head(study, key)))


def read_heads(place: Place) -> Iterator[tuple[str, Head | None]]:
    """Every head with its name in the store, in sorted order; None for an unreadable or half-written one."""
    for study in place.names(layout.HEADS):
        folder = f"{layout.HEADS}/{study}"
        for name in place.names(folder):
            whole = name.endswith(".json")
            yield f"{folder}/{name}", _parsed(place.read(f"{folder}/{name}")) if whole else None


def write_head(place: Place, study: str, key: str, manifest: Manifest) -> None:
    """Record `manifest` as the newest of its step, unless it is already."""
    name = layout.head(study, key)
    document = {"study": study, "key": key, "manifest": asdict(manifest)}
    data = json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
    if place.read(name) != data:
        place.write(name, data)


def _parsed(data: bytes | None) -> Head | None:
    try:
        document = json.loads(data or b"")
        return Head(document["study"], document["key"], Manifest.from_document(document["manifest"]))
    except (ValueError, KeyError, TypeError, BrokenArtifactError):
        return None
