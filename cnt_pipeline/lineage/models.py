"""The models that a bundle speaks of: the files of those from outside, and every tensor's digest."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.lineage.digests import tensor_digests
from cnt_pipeline.lineage.layout import MODEL
from cnt_pipeline.lineage.record import Broken, Bundle
from cnt_pipeline.models.adapter_files import ADAPTER
from cnt_pipeline.models.tensors import CheckpointIndex
from cnt_pipeline.pipeline.outcome import CHECKPOINT
from cnt_pipeline.store import Manifest

DESCRIPTION = "model.json"
OUTSIDE = "files"
"""Input of a step by which the store knows what it reads from outside."""


def given_models(bundle: Bundle, manifests: Mapping[str, Manifest]) -> dict[str, dict[str, str]]:
    """By step, the SHA-256 of the files of every model or adapter that came from outside; a GGUF file has no name.

    Raises:
        Broken: a description of a model is absent or unreadable.
    """
    found: dict[str, dict[str, str]] = {}
    for key, manifest in manifests.items():
        if not key.startswith("models/") or OUTSIDE not in manifest.inputs:
            continue
        adapter = f"{ADAPTER}/"
        added = {name: record.sha256 for name, record in manifest.files.items() if name.startswith(adapter)}
        if added:
            found[key] = {name.removeprefix(adapter): sha256 for name, sha256 in added.items()}
        elif any(name.startswith(MODEL) for name in manifest.files):
            found[key] = {"": manifest.inputs[OUTSIDE]}
        else:
            found[key] = model_files(bundle, key)
    return found


def made_models(manifests: Mapping[str, Manifest]) -> dict[str, dict[str, str]]:
    """By step, the SHA-256 of the files of every model that a step made, by their names in the model's folder."""
    found: dict[str, dict[str, str]] = {}
    for key, manifest in manifests.items():
        files = {
            name.removeprefix(MODEL): each.sha256 for name, each in manifest.files.items() if name.startswith(MODEL)
        }
        if key.startswith("models/") and files:
            found[key] = files
    return found


def model_files(bundle: Bundle, key: str) -> dict[str, str]:
    """SHA-256 of the files of a model, as the step `key` described it.

    Raises:
        Broken: the description is absent or unreadable.
    """
    name = f"{key}/{DESCRIPTION}"
    try:
        document = json.loads(bundle.path(name).read_bytes())
        return {file: str(record["sha256"]) for file, record in sorted(document["files"].items())}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise Broken(name, f"{name} is absent or unreadable, so {key} cannot be recognised by its digests") from None


def model_step(bundle: Bundle, role: str) -> str:
    """The step of the model that the checkpoint was made from as `role`, target or donor.

    Raises:
        Broken: the checkpoint's step names none.
    """
    link = bundle.index.steps.get(CHECKPOINT, {}).get(role)
    if link is None or not link.step.startswith("models/"):
        raise Broken("bundle.json", f"bundle.json does not say which {role} {CHECKPOINT} was made from")
    return link.step


def tensor_document(target: CheckpointIndex, donor: CheckpointIndex, checkpoint: CheckpointIndex) -> dict[str, Any]:
    """`tensors.json`: dtype, shape and digests of every tensor of the checkpoint; null where a model lacks it."""
    models = {
        name: tensor_digests(index)
        for name, index in (("target", target), ("donor", donor), ("checkpoint", checkpoint))
    }
    return {
        name: {"dtype": info.dtype, "shape": info.shape, **{model: of.get(name) for model, of in models.items()}}
        for name, info in checkpoint.tensors.items()
    }


def folder_files(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that make a model, as its step describes them.

    Raises:
        InputError: no model lies there.
    """
    from cnt_pipeline.models.load import model_files as files_of
    from cnt_pipeline.store.digests import hash_file

    return {str(path.relative_to(folder)): hash_file(path) for path in files_of(folder)}
