"""Builders of the `prompt_sets` stage."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.pipeline.dimension_steps import DIMENSION, EARLIER, TAUGHT
from cnt_pipeline.prompt_sets.build import build as build_roles
from cnt_pipeline.prompt_sets.dimensions import PARTS, build_dimension
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import TRAIN


def build(context: Context, folder: Path) -> Mapping[str, JSON]:
    """A file per role."""
    return build_roles(context.study.prompts, context.study.seed, folder, context.study.models.taught_kinds())


def dimension(context: Context, folder: Path) -> Mapping[str, JSON]:
    """A file for each part of one safety dimension; its inputs are lessons and the dimensions before it."""
    study = context.study
    name = context.step.key.removeprefix(DIMENSION)
    chosen = next(each for each in study.compare.dimensions if each.name == name)

    def ids(source: str, files: list[str]) -> set[str]:
        return {prompt.id for file in files for prompt in read_prompts(context.path(source, file))}

    lessons = [file_name(TRAIN, kind) for kind in study.models.taught_kinds()]
    parts = [file_name(split, "function") for split in PARTS]
    earlier = {name.removeprefix(EARLIER): ids(name, parts) for name in context.inputs if name.startswith(EARLIER)}
    taught = ids(TAUGHT, lessons) if TAUGHT in context.inputs else set()
    return build_dimension(chosen, study.prompts.split, study.seed, folder, taught, earlier)
