"""Builders of the `evaluations` stage."""

import json
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from cnt_pipeline.evaluations.curve import write_curve
from cnt_pipeline.evaluations.score import score as write_scores
from cnt_pipeline.evaluations.verdict import write_verdict
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.completions import read_said
from cnt_pipeline.pipeline.builders.transplants import VERIFICATION, judge_of, space_of
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.pipeline.step import SUBJECTS
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS
from cnt_pipeline.transplants.select.build import PLAN, SELECTION
from cnt_pipeline.transplants.select.candidates import read_orders


def score(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Samples and metrics of every subject on the test prompts."""
    prompts = {kind: read_prompts(context.path("prompts", file_name("test", kind))) for kind in KINDS}
    said = {subject: read_said(context, subject) for subject in SUBJECTS}
    metrics = context.step.slice["metrics"]
    write_scores(prompts, said, metrics, context.study.seed, folder)
    return {"metrics": list(metrics)}


def curve(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Recovery on selection prompts at several budgets, with the controls."""
    judge, space = judge_of(context), space_of(context)
    setting = json.loads(context.path("selection", SELECTION).read_text(encoding="utf-8"))
    ranking = read_orders(context.path("ranking", RANKING), space, context.study.method.families)
    largest = read_orders(context.path("deltas", RANKING), space, None)[0.0]
    chosen = space.numbers(pl.read_parquet(context.path("selection", PLAN), glob=False))
    write_curve(
        judge,
        space,
        chosen,
        ranking[setting["lookalike_weight"]],
        largest,
        setting["eta"],
        context.step.slice["budgets"],
        context.study.seed,
        folder,
        context.report,
    )
    return {}


def verdict(context: Context, folder: Path) -> Mapping[str, JSON]:
    """The quality gates."""
    return write_verdict(
        context.inputs["scores"].folder(),
        context.path("verification", VERIFICATION),
        context.study.function,
        context.study.accept,
        context.study.seed,
        folder,
    )
