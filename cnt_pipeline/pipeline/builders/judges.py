"""Builders of the judges' verdicts and of where judges disagree."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.evaluations.judging import write_judges, write_verdicts
from cnt_pipeline.measures.judges.build import make_judge
from cnt_pipeline.measures.judges.schema import JUDGED
from cnt_pipeline.pipeline.builders.completions import read_said
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.pipeline.step import SUBJECTS
from cnt_pipeline.prompt_sets.schema import Prompt, file_name, read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import Judge, Kind


def judge(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`verdicts.parquet` and `judge.json`."""
    block = context.step.external
    assert isinstance(block, Judge)
    if block.model is not None:
        context.models.start_torch()
    context.report(f"{block.name} judges answers", 0, 0)
    document = write_verdicts(
        block.name,
        make_judge(block, context.study.dtype, context.study.run.device),
        _prompts(context),
        {subject: read_said(context, subject, JUDGED) for subject in SUBJECTS},
        context.batch_size,
        folder,
    )
    return {"counts": document["counts"]}


def summarise(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`judges.json` and `shares.parquet`."""
    document = write_judges(
        [context.inputs[f"judged_{name}"].folder() for name in context.step.slice["judges"]],
        _prompts(context),
        context.step.slice.get("aside", ()),
        context.study.seed,
        folder,
    )
    return {"pairs": len(document["pairs"])}


def _prompts(context: Context) -> dict[Kind, list[Prompt]]:
    return {kind: read_prompts(context.path("prompts", file_name("test", kind))) for kind in JUDGED}
