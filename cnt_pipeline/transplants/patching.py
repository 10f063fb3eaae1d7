"""Applying a patch: the checkpoint from its target, or the target from its checkpoint, proven file by file.

The model is never loaded: each file is passed on in one stream, in which every block must hold what the patch says lies
there before. The sha256 of each file written is compared with the recorded one.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.transplants.arithmetic import BIT_TYPES, Bits
from cnt_pipeline.transplants.blocks import Block, Replace
from cnt_pipeline.transplants.new_files import new_folder
from cnt_pipeline.transplants.patch import FORWARD, INVERSE, PatchWriter
from cnt_pipeline.transplants.patch_file import Patch
from cnt_pipeline.transplants.stream import stream_file


@dataclass(frozen=True)
class PatchReport:
    """The model as written: `files` by name with their proven sha256."""

    folder: Path
    files: Mapping[str, str]


def apply(patch: Path, target: Path, out: Path) -> PatchReport:
    """Write to `out` the checkpoint that the forward patch makes of `target`, with the inverse patch beside it.

    Raises `InputError` when the patch is corrupt, records no digests or was made for another target (naming the file
    and, inside the patch, the tensor that differs), and `StoreError` when `out` holds something or cannot be written.
    After any error nothing is left behind.
    """
    return _patched(Patch(patch, FORWARD), read_index(target), out)


def revert(checkpoint: Path, patch: Path | None, out: Path) -> PatchReport:
    """Write to `out` the target of which `checkpoint` was made.

    `patch` is its inverse patch, that in the folder `checkpoint` when None. Raises as `apply`.
    """
    return _patched(Patch(patch or checkpoint / INVERSE.file, INVERSE), read_index(checkpoint), out)


def _patched(patch: Patch, index: CheckpointIndex, out: Path) -> PatchReport:
    for name, record in patch.files.items():
        path = index.path(name)
        if not path.is_file() or path.stat().st_size != record.size:
            raise patch.refusal(index, f"{name} is absent or of another size")
    forward = patch.direction is FORWARD
    needed = sum(record.size for record in patch.files.values()) + forward * patch.path.stat().st_size
    files: dict[str, str] = {}
    with (
        new_folder(out, needed) as claim,
        PatchWriter(claim(INVERSE.file), INVERSE) if forward else nullcontext() as way_back,
    ):
        for name, record in patch.files.items():
            blocks, replace = _replacing(patch, index, name, way_back)
            done = stream_file(index.path(name), claim(name), blocks, replace, hash_written=True)
            if done.written is None or done.written != patch.direction.wanted(record):
                raise patch.refusal(index, _outside(name, index))
            files[name] = done.written
        if way_back:
            way_back.finish(patch.files)
    return PatchReport(out, files)


def _replacing(
    patch: Patch, index: CheckpointIndex, file: str, way_back: PatchWriter | None
) -> tuple[Iterator[Block], Replace]:
    """The blocks of one file, and what puts the patch's values into each that proves to hold what lay there."""
    pending: deque[tuple[bytes, bytes]] = deque()

    def blocks() -> Iterator[Block]:
        for block, values, digest in patch.blocks(index, file):
            pending.append((values, digest))
            yield block

    def replace(block: Block, held: Bits) -> Bits:
        values, digest = pending.popleft()
        if hashlib.sha256(held.tobytes()).digest() != digest:
            raise patch.refusal(index, f"{file}: {block.info.name} differs")
        put: Bits = np.frombuffer(values, BIT_TYPES[block.info.dtype]).reshape(block.shape)
        if way_back:
            way_back.record(block, held, put)
        return put

    return blocks(), replace


def _outside(file: str, index: CheckpointIndex) -> str:
    """Where a file differs that holds in every block of the patch what it should."""
    return f"{file} differs" + (" outside the neurons of the patch" if file in index.files else "")
