"""Write a transplant: the target's checkpoint, byte for byte, with the planned neurons taken from the donor.

Edit rule (methods section 1): amplitude 1 copies the donor's neuron, any other writes `W_T + a (W_D -
W_T)`. The model is never loaded: each weights file is passed on in one stream, in which only the planned
rows and columns are replaced.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cnt_pipeline.models.tensors import SHARD_INDEX, SINGLE_FILE, CheckpointIndex
from cnt_pipeline.transplants.arithmetic import Bits
from cnt_pipeline.transplants.blocks import Block, Replace, blocks_of
from cnt_pipeline.transplants.donor import DonorNeurons
from cnt_pipeline.transplants.moved import NEURONS, MovedNeurons
from cnt_pipeline.transplants.new_files import new_files
from cnt_pipeline.transplants.patch import FORWARD, INVERSE, FileRecord, PatchWriter
from cnt_pipeline.transplants.plan import TensorEdit, TransplantPlan
from cnt_pipeline.transplants.stream import stream_file

OTHER_WEIGHTS = (
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".onnx_data", ".gguf", ".ot",
    ".tflite", ".npz",
)  # fmt: skip
"""Weights in formats that are not transplanted: a copy would be the target's, which a loader might prefer."""

PROOF_NAME = "verification.json"
OWN_FILES = ("README.md", FORWARD.file, INVERSE.file, NEURONS, PROOF_NAME)
"""Files that belong to a checkpoint itself and are not inherited: its model card, its patches, the list of what moved
and the proof that nothing else changed."""


@dataclass(frozen=True)
class WrittenFile:
    """One file of the new checkpoint; `sha256` is None when digests were not asked for."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class WriteReport:
    """What was written: `files` by name inside `folder`, the neurons and parameters replaced, the way back.

    `left_out` are files of the target that were not copied: weights in other formats and the target's model
    card.
    """

    folder: Path
    files: Mapping[str, WrittenFile]
    neurons: int
    parameters: int
    bytes_patched: int
    patch: Path
    left_out: tuple[str, ...]


def write_transplant(
    target: CheckpointIndex,
    donor: CheckpointIndex,
    plan: TransplantPlan,
    out: Path,
    *,
    digests: bool = True,
    target_digests: Mapping[str, str] | None = None,
    patch: Path | None = None,
    forward: Path | None = None,
    neurons: Path | None = None,
) -> WriteReport:
    """Write the checkpoint `out` (same files, names, dtypes as the target) and its inverse patch.

    With `digests` the sha256 of every file written is taken in the same pass. The patches record the
    sha256 of every file of the target: those in `target_digests` (by file name) are believed, the others
    are computed in the same pass. Without `digests` no file is hashed, and a patch lacking the digests of
    what it leads to cannot be applied. `patch` is where the inverse patch goes, into `out` when None;
    `forward` and `neurons` are where the forward patch and the list of what moved go, not written when None.

    Raises `InputError` (`MismatchError`) when plan, target and donor do not fit together or an amplified
    weight overflows, and `StoreError` when `out` cannot be written or would overwrite a file. After any
    error nothing is left behind.
    """
    edits = plan.edits(target, donor)
    copied, left_out = companion_files(target)
    known = target_digests or {}
    patch = out / INVERSE.file if patch is None else patch
    names = [*copied, *target.files]
    sizes = {name: target.path(name).stat().st_size for name in names}
    parameters = sum(edit.parameters for part in edits.values() for edit in part)
    bytes_patched = sum(edit.parameters * edit.info.itemsize for part in edits.values() for edit in part)
    files: dict[str, WrittenFile] = {}
    records: dict[str, FileRecord] = {}
    ways = {INVERSE: patch} | ({FORWARD: forward} if forward else {})
    with new_files(out, sum(sizes.values()) + len(ways) * bytes_patched) as claim, ExitStack() as stack:
        patches = [stack.enter_context(PatchWriter(claim(path), way)) for way, path in ways.items()]
        lists = [stack.enter_context(MovedNeurons(claim(neurons), plan, edits))] if neurons else []
        given = stack.enter_context(DonorNeurons(donor))
        for name in names:
            part = edits.get(name, ())
            done = stream_file(
                target.path(name),
                claim(out / name),
                (block for edit in part for block in blocks_of(edit.info, edit.axis, edit.positions)),
                _replacing(part, given, [*patches, *lists]),
                hash_read=digests and name not in known and bool(part),
                hash_written=digests,
            )
            files[name] = WrittenFile(done.size, done.written)
            read = done.read if part else done.written
            records[name] = FileRecord(done.size, target=known.get(name, read), checkpoint=done.written)
        for each in patches:
            each.finish(records)
    return WriteReport(out, files, len(plan), parameters, bytes_patched, patch, left_out)


def _replacing(
    edits: tuple[TensorEdit, ...], neurons: DonorNeurons, records: Sequence[PatchWriter | MovedNeurons]
) -> Replace:
    """The donor's values for every block of `edits`, each noted in all `records`."""
    by_name = {edit.info.name: edit for edit in edits}

    def replace(block: Block, old: Bits) -> Bits:
        new = neurons.transplanted(by_name[block.info.name], block, old)
        for each in records:
            each.record(block, old, new)
        return new

    return replace


def companion_files(index: CheckpointIndex) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of a checkpoint folder besides its weights: those a transplant copies, those it leaves out.

    Left out are weights in other formats, hidden files, and the card, patches and lists of a transplant of
    the folder's own. Names are relative to the folder, with "/" between parts.
    """
    copied: list[str] = []
    left_out: list[str] = []
    for folder, folders, names in os.walk(index.folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name).relative_to(index.folder).as_posix()
            if path in index.files:
                continue
            stale_index = path == SHARD_INDEX and index.files == (SINGLE_FILE,)
            other = stale_index or name.startswith(".") or name.endswith(OTHER_WEIGHTS) or path in OWN_FILES
            (left_out if other else copied).append(path)
    return tuple(sorted(copied)), tuple(sorted(left_out))
