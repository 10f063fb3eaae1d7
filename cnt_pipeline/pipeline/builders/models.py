"""Builders of the `models` stage: a model by its files' digests, models made from others, and what target and donor
have in common."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.models import gguf
from cnt_pipeline.models.adapter_files import ADAPTER, adapter_files
from cnt_pipeline.models.ancestry import Ancestry, ancestry, ancestry_warning
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.architecture_table import read_config
from cnt_pipeline.models.compare import check_finite, non_neuron_difference
from cnt_pipeline.models.compare import compare as compare_folders
from cnt_pipeline.models.load import load_tokenizer, model_files
from cnt_pipeline.models.permute import write_permuted
from cnt_pipeline.models.sources import resolve_gguf
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.pipeline.find_steps import TRAINING
from cnt_pipeline.pipeline.places import MODEL
from cnt_pipeline.pipeline.refuse import refuse_families
from cnt_pipeline.prompt_sets.schema import file_name as prompt_file
from cnt_pipeline.prompt_sets.schema import read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.study.schema import TRAIN, AdapterSource, LoraSft, ModelSource

if TYPE_CHECKING:
    from cnt_pipeline.models.matching import Matching

MATCHING = "matching.json"


def describe(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model.json`: sha256 and size of every file, architecture and parameters. The place of the files is not
    content."""
    place = context.models.folder(_name(context))
    return {"source": str(place), **write_description(place, folder)}


def dequantise(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model/`, the GGUF file's model in float32, and its `model.json`."""
    source = context.study.models.named()[_name(context)]
    assert isinstance(source, ModelSource)
    file = resolve_gguf(source)
    context.models.start_torch()
    context.report(f"dequantising {file.name}", 0, 1)
    gguf.dequantise(file, folder / MODEL)
    return {"source": str(file), **write_description(folder / MODEL, folder)}


def merge_adapter(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model/`, the base with a given adapter added, its `model.json`, and the adapter's own files as `adapter/`.

    Raises:
        InputError: the adapter is none that can be merged into its base.
    """
    source = context.study.models.named()[_name(context)]
    assert isinstance(source, AdapterSource)
    context.models.start_torch()
    from cnt_pipeline.models import adapters

    base = context.models.folder(source.base)
    context.report("merging the adapter", 0, 1)
    given = adapters.read_adapter(source.adapter, read_index(base))
    adapters.write_merged(base, given, folder / MODEL)
    (folder / ADAPTER).mkdir()
    for file in adapter_files(source.adapter):
        shutil.copyfile(file, folder / ADAPTER / file.name)
    return {
        "base": source.base,
        "source": str(source.adapter),
        "modules": len(given.factors),
        **write_description(folder / MODEL, folder),
    }


def fine_tune(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model/`, the base with what the lessons taught it, its `model.json`, what was added to the base as `adapter/` in
    peft's format, and `training.parquet`."""
    context.models.start_torch()
    from cnt_pipeline.models import adapters, lessons, recipes

    name = _name(context)
    recipe = context.study.models.named()[name]
    assert isinstance(recipe, LoraSft)
    base, device = context.models.folder(recipe.base), context.study.run.device
    taught = lessons.encode_lessons(
        recipe,
        {kind: read_prompts(context.path("prompts", prompt_file(TRAIN, kind))) for kind in recipe.kinds},
        load_tokenizer(base),
        lambda: context.models.load(base),
        context.study.generation.system,
        read_config(base).get("max_position_embeddings"),
        context.report,
    )
    learned, curve, seconds = recipes.fine_tune(base, recipe, taught, context.report, f"training the {name}", device)
    context.report("merging the adapters", 0, 1)
    adapters.write_merged(base, learned, folder / MODEL)
    adapters.write_adapter(learned, read_index(base), folder / ADAPTER)
    recipes.write_curve(curve, folder / TRAINING)
    ends = max(1, len(curve) // 10)
    return {
        "base": recipe.base,
        "examples": [len(lesson.examples) for lesson in taught],
        "first_loss": sum(row.loss for row in curve[:ends]) / ends,
        "last_loss": sum(row.loss for row in curve[-ends:]) / ends,
        "training_seconds": round(seconds, 2),
        **write_description(folder / MODEL, folder),
    }


def _name(context: Context) -> str:
    return context.step.key.split("/")[1]


def write_description(place: Path, folder: Path) -> Mapping[str, JSON]:
    """Write `model.json` of the model in `place` into `folder`."""
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
    return {"parameters": document["parameters"]}


def compare(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`comparison.json`: that neurons can be exchanged, that weights are finite, and how far other tensors differ."""
    target, donor = context.models.folder("target"), context.models.folder("donor")
    comparison = compare_folders(target, donor)
    refuse_families(context.study, comparison.architecture)  # a derived target could not be asked before
    for which in ("target", "donor"):
        context.report(f"checking the {which}'s weights", 0, 1)
        check_finite(context.models.index(which))
    others = non_neuron_difference(context.models.index("target"), context.models.index("donor"))
    context.report("comparing neuron by neuron", 0, 1)
    kin = ancestry(context.models.index("target"), context.models.index("donor"), comparison.architecture)
    apart = ancestry_warning(kin, str(context.step.slice.get("match", "index")))
    document: dict[str, JSON] = {
        "agreements": list(comparison.agreements),
        "notes": list(comparison.notes),
        "warnings": [*comparison.warnings, *others.warnings, *([apart] if apart else [])],
        "non_neuron_tensors": dict(others.relative),
        "ancestry": kin.document(),
    }
    (folder / "comparison.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return {"warnings": document["warnings"], "median_cosine": kin.median_cosine}


def match_donor(context: Context, folder: Path) -> Mapping[str, JSON]:
    """The donor with its channels and heads in the target's order: `model/`, its `model.json`, and `matching.json`.

    Raises:
        BrokenArtifactError: the donor in its new order is another function, which only a fault of the disk explains.
    """
    from cnt_pipeline.completions.build import context_length, encode_set
    from cnt_pipeline.models.matching import match, same_function

    models = context.models
    target, donor = models.model("target"), models.load(models.folder("donor"))
    prompts = read_prompts(context.path("prompts", prompt_file("score", "utility")))
    encoded = encode_set(models.tokenizer(), prompts, context.study.generation, context_length(target))
    found = match(target, donor, models.architecture(), encoded.tokens, report=context.report)
    index = read_index(models.folder("donor"))
    write_permuted(index, models.architecture(), found.permutation, folder / MODEL)
    permuted = models.load(folder / MODEL)
    if not same_function(donor, permuted, encoded.tokens[: context.batch_size]):
        raise BrokenArtifactError(
            "the donor says something else with its channels and heads in the target's order; check the disk, or "
            "write `dtype: float32` in the study, and run again"
        )
    document = matching_document(
        found,
        ancestry(models.index("target"), index, models.architecture()),
        ancestry(models.index("target"), read_index(folder / MODEL), models.architecture()),
    )
    (folder / MATCHING).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    described = write_description(folder / MODEL, folder)
    return {"parameters": described["parameters"], **{key: document[key] for key in ("moved", "median_cosine")}}


def matching_document(found: "Matching", before: Ancestry, after: Ancestry) -> dict[str, JSON]:
    """`matching.json`: what the pairing changed. The last digits of correlations are noise, so they are rounded."""
    layers: list[JSON] = [
        {"layer": layer, "unit": unit, "before": round(found.before[layer, unit], 4), "after": round(value, 4)}
        for (layer, unit), value in sorted(found.after.items())
    ]
    return {
        "moved": found.permutation.moved,
        "median_cosine": {"index": before.median_cosine, "activation": after.median_cosine},
        "share_low": {"index": before.share_low, "activation": after.share_low},
        "correlation": layers,
    }
