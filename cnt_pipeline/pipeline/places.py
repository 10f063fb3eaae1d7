"""Where the models of a study lie on this machine: plain ones at their source, derived ones in the store."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.models.sources import resolve_model
from cnt_pipeline.pipeline.step import MATCHED
from cnt_pipeline.store import Artifact
from cnt_pipeline.study.schema import LoraSft, Models, ModelSource, Study, StudyModel

MODEL = "model"
"""Folder inside a derived model's artifact that is used like any other model folder."""


def is_derived(model: StudyModel) -> bool:
    """Whether the study makes this model: by a recipe, by merging an adapter, or from a GGUF file."""
    return not isinstance(model, ModelSource) or model.is_gguf


def folder_of(study: Study, name: str, artifacts: Mapping[str, Artifact]) -> Path | None:
    """Folder of a model of the study, None for a derived one that `artifacts` (by step) does not hold.

    Raises:
        InputError: a source that cannot be found.
    """
    if f"models/{name}" == MATCHED:
        matched = artifacts.get(MATCHED)
        return matched.folder() / MODEL if matched else None
    model = study.models.named()[name]
    if not isinstance(model, ModelSource) or model.is_gguf:
        made = artifacts.get(f"models/{name}")
        return made.folder() / MODEL if made else None
    return resolve_model(model)


def source_name(models: Models, name: str) -> str:
    """Where a model comes from, without the place on this machine where it lies."""
    model = models.named()[name]
    if isinstance(model, LoraSft):
        return f"lora_sft of {source_name(models, model.base)}"
    if not isinstance(model, ModelSource):
        return f"{model.adapter.name} on {source_name(models, model.base)}"
    if model.hub:
        return f"{model.hub}@{model.revision}"
    return f"{model.package}/{model.file}" if model.package else str(model.path and model.path.name)
