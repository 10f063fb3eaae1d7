"""Remove what no study reaches."""

import logging
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Literal

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.store import layout
from cnt_pipeline.store.heads import read_heads
from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.store.place import Place

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removed:
    """One thing that gc removed or would: `name` below the root, `size` in bytes, its step where known."""

    kind: Literal["artifact", "staging", "head"]
    name: str
    size: int
    key: str | None = None


def collect(place: Place, keep: Set[tuple[str, str]], dry_run: bool) -> list[Removed]:
    """Remove artifacts outside `keep`, folders that killed processes left, and heads without artifact.

    What is being built is left alone, and so is the staging folder of a resumable step in `keep`: its next
    run goes on there.
    """
    removed = [*_artifacts(place, keep, dry_run), *_leftovers(place, keep, dry_run)]
    gone = {entry.name for entry in removed}
    removed += _heads(place, gone, dry_run)
    if not dry_run:
        place.sweep_locks()
    return removed


def _artifacts(place: Place, keep: Set[tuple[str, str]], dry_run: bool) -> Iterator[Removed]:
    for stage, fingerprint in list(place.artifacts()):
        folder = layout.artifact(stage, fingerprint)
        text = place.read(f"{folder}/{layout.MANIFEST}")
        if (stage, fingerprint) in keep and text is not None:
            continue
        entry = Removed("artifact", folder, place.size(folder), _key(text))
        if dry_run:
            if not place.is_held(stage, fingerprint):
                yield entry
            continue
        with place.holding(stage, fingerprint, folder, wait=False) as held:
            if held:
                place.discard(stage, fingerprint)
                yield entry
            else:
                log.info("%s stays: it is being built", folder)


def _leftovers(place: Place, keep: Set[tuple[str, str]], dry_run: bool) -> Iterator[Removed]:
    for leftover in place.leftovers():
        stage, fingerprint, kind = leftover
        if kind == "resumable" and (stage, fingerprint) in keep:
            continue
        if dry_run:
            if not place.is_held(stage, fingerprint):
                yield Removed("staging", leftover.name, place.leftover_size(leftover))
            continue
        with place.holding(stage, fingerprint, leftover.name, wait=False) as held:
            if held:
                size = place.leftover_size(leftover)
                place.remove_leftover(leftover)
                yield Removed("staging", leftover.name, size)


def _heads(place: Place, gone: Set[str], dry_run: bool) -> Iterator[Removed]:
    present = {layout.artifact(*artifact) for artifact in place.artifacts()} - gone
    for name, head in read_heads(place):
        if head is None or layout.artifact(head.manifest.stage, head.manifest.fingerprint) not in present:
            size = place.size(name)
            if not dry_run:
                place.delete(name)
            yield Removed("head", name, size, head.key if head else None)


def _key(text: bytes | None) -> str | None:
    try:
        return Manifest.from_json(text).key if text is not None else None
    except BrokenArtifactError:
        return None
