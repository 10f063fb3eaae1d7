"""Builder of the `prompt_sets` stage."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.prompt_sets.build import build as build_roles
from cnt_pipeline.store import JSON


def build(context: Context, folder: Path) -> Mapping[str, JSON]:
    """A file per role."""
    return build_roles(context.study.prompts, context.study.seed, folder, context.study.models.taught_kinds())
