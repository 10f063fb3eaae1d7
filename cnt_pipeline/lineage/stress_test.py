"""A stress test's weights must not leave the store: whoever carried them out, even with the right key, is named.

`cnt bundle` writes none and `cnt export` refuses. Any place of a bundle that says stress test counts, since whoever
adds weights may change the others; so does a selection that deletes refusal, which only a stress test may.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.record import Broken, Bundle
from cnt_pipeline.models.tensors import read_file_index
from cnt_pipeline.pipeline.outcome import CHECKPOINT, SELECTION
from cnt_pipeline.store import Manifest
from cnt_pipeline.transplants.apply import OTHER_WEIGHTS
from cnt_pipeline.transplants.patch import FORWARD, INVERSE

PURPOSE = "stress_test"
_BEGINNINGS = (b"GGUF", b"PK\x03\x04", b"\x93NUMPY", b"\x89HDF", b"\x80")
"""Of GGUF files, torch's and numpy's archives, numpy arrays, HDF5 and pickles."""


def check_stress_test(bundle: Bundle, manifests: Mapping[str, Manifest]) -> None:
    """A bundle or an export of a stress test holds no checkpoint, patch or adapter, under whatever name.

    Raises:
        Broken: naming the first file that holds weights, and what says that this is a stress test.
        InputError: a file cannot be read.
    """
    said = next(_said(bundle, manifests), None)
    if said is None:
        return
    root = bundle.folder.parent if bundle.index.exported else bundle.folder
    for path in sorted(root.rglob("*")):
        if path.is_file() and _holds_weights(path):
            name = path.relative_to(root).as_posix()
            raise Broken(
                name,
                f"{name} holds weights, but {said}, and a stress test's weights must not leave the store: do not use "
                "or pass on this folder",
            )


def _said(bundle: Bundle, manifests: Mapping[str, Manifest]) -> Iterator[str]:
    """Everything in a bundle by which it is a stress test."""
    if bundle.index.purpose == PURPOSE:
        yield f"{layout.INDEX} says that this is a stress test"
    for name in (layout.STUDY, layout.RESOLVED):
        if _purpose(bundle.path(name)) == PURPOSE:
            yield f"{name} says that this is a stress test"
    if CHECKPOINT in manifests and manifests[CHECKPOINT].slice.get("purpose") == PURPOSE:
        yield f"{layout.manifest_name(CHECKPOINT)} says that this is a stress test"
    chosen = manifests[SELECTION].slice if SELECTION in manifests else {}
    if (chosen.get("metric"), chosen.get("direction")) == ("refusal", "delete"):
        yield f"{layout.manifest_name(SELECTION)} says that refusal was deleted, as in stress tests alone"


def _purpose(path: Path) -> Any:
    """The purpose in a study file; None where it is unreadable, which `check_study` names."""
    try:
        text = path.read_text(encoding="utf-8")
        document = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return None
    return document.get("purpose") if isinstance(document, dict) else None


def _holds_weights(path: Path) -> bool:
    """Whether a file holds weights, by its name or by its beginning."""
    if path.name.endswith(OTHER_WEIGHTS) or path.name in (FORWARD.file, INVERSE.file):
        return True
    try:
        with path.open("rb") as stream:
            begin = stream.read(8)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): mend its permissions, then verify again") from None
    if begin.startswith(b"PAR1"):
        return _is_patch(path)
    return begin.startswith(_BEGINNINGS) or _is_safetensors(path)


def _is_safetensors(path: Path) -> bool:
    try:
        return bool(read_file_index(path).tensors)
    except InputError:
        return False


def _is_patch(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = set(pq.read_schema(path).names)
    except (OSError, pa.ArrowInvalid):
        return False
    return any(names >= {"tensor", "positions", direction.values} for direction in (FORWARD, INVERSE))
