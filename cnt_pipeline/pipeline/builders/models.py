"""Builders of the `models` stage: a model by its files' digests, and what target and donor have in common."""

import json
from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.compare import check_finite, non_neuron_difference
from cnt_pipeline.models.compare import compare as compare_folders
from cnt_pipeline.models.load import model_files
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.store import JSON
from cnt_pipeline.store.digests import hash_file


def describe(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model.json`: sha256 and size of every file, architecture and parameters. The place of the files is not
    content."""
    which = context.step.key.split("/")[1]
    place = context.models.folder(which)
    index = read_index(place)
    architecture = read_architecture(place, index)
    files: dict[str, JSON] = {
        str(p.relative_to(place)): {"sha256": hash_file(p), "size": p.stat().st_size} for p in model_files(place)
    }
    document: dict[str, JSON] = {
        "architecture": architecture.name,
        "layers": architecture.layers,
        "hidden_size": architecture.hidden_size,
        "parameters": sum(tensor.count for tensor in index.tensors.values()),
        "neurons": sum(matrix.neurons for matrix in architecture.matrices),
        "dtypes": sorted({tensor.dtype for tensor in index.tensors.values()}),
        "files": files,
    }
    (folder / "model.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"source": str(place), "parameters": document["parameters"]}


def compare(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`comparison.json`: that neurons can be exchanged, that weights are finite, and how far other tensors differ."""
    target, donor = context.models.folder("target"), context.models.folder("donor")
    comparison = compare_folders(target, donor)
    for which in ("target", "donor"):
        context.report(f"checking the {which}'s weights", 0, 1)
        check_finite(context.models.index(which))
    others = non_neuron_difference(context.models.index("target"), context.models.index("donor"))
    document: dict[str, JSON] = {
        "agreements": list(comparison.agreements),
        "notes": list(comparison.notes),
        "warnings": [*comparison.warnings, *others.warnings],
        "non_neuron_tensors": dict(others.relative),
    }
    (folder / "comparison.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return {"warnings": document["warnings"]}
