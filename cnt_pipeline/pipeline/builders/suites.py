"""Builders of suites: their prompts, what the models say, tasks of lm-evaluation-harness, and the scores."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.completions.answers import read_answers, write_answers
from cnt_pipeline.completions.items import ask
from cnt_pipeline.evaluations.harness import DOCUMENT, ROWS, run_tasks, task_figures
from cnt_pipeline.evaluations.suite_score import judge, write_suite
from cnt_pipeline.evaluations.suite_table import ResolvedSuite, resolve_suites
from cnt_pipeline.pipeline.context import Context, read_json
from cnt_pipeline.pipeline.suite_steps import OWN_PROMPTS, READ_BEFORE, SUITE, SUITE_SUBJECTS
from cnt_pipeline.prompt_sets.items import read_items, write_items
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.prompt_sets.suites import gather
from cnt_pipeline.store import JSON


def prompts(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`<part>.parquet` for every part, without what scoring, search and recipes read."""
    suite = _suite_of(context)
    roles = context.inputs[READ_BEFORE]
    read = {
        prompt.id
        for name in sorted(roles.manifest.files)
        if name.endswith(".parquet") and not name.startswith("test.")
        for prompt in read_prompts(roles.path(name))
    }
    counts: dict[str, JSON] = {}
    left_out: dict[str, JSON] = {}
    for part in suite.asked:
        own = read_prompts(context.path(OWN_PROMPTS, file_name("test", part.kind))) if part.kind else []
        place = f"suites.{suite.key}.{part.name}"
        gathered = gather(
            part.source, own, part.adapter, part.part.template, part.take, context.study.seed, read, place
        )  # fmt: skip
        write_items(gathered.items, folder / f"{part.name}.parquet")
        counts[part.name], left_out[part.name] = len(gathered.items), gathered.left_out
    return {"rows": counts, "left_out": left_out}


def answer(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`<part>.parquet` with what one model says to every part."""
    subject = context.step.key.split("/")[1].split(f"_{SUITE}")[0]
    model = _model(context, subject)
    counts: dict[str, JSON] = {}
    for name, how in context.step.slice["parts"].items():
        settings = context.study.generation
        if "max_new_tokens" in how:
            settings = settings.model_copy(update={"max_new_tokens": how["max_new_tokens"]})
        rows = ask(
            model,
            context.models.tokenizer(),
            read_items(context.path("prompts", f"{name}.parquet")),
            settings,
            how["form"],
            how["needs"],
            context.batch_size,
            context.report,
            f"{subject} answers {name}",
        )
        write_answers(rows, folder / f"{name}.parquet")
        counts[name] = len(rows)
    return {"rows": counts}


def harness(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What lm-evaluation-harness finds of one model: `harness.parquet` and `harness.json`."""
    suite = _suite_of(context)
    document = run_tasks(
        _model(context, context.step.key.split("/")[2]),
        context.models.tokenizer(),
        {part.name: (part.part, part.take) for part in suite.tasks},
        context.batch_size,
        context.study.seed,
        folder,
    )
    return {"tasks": {name: part["version"] for name, part in document.items()}}


def score(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`samples.parquet` and `metrics.parquet` of every subject."""
    suite = _suite_of(context)
    samples: list[dict[str, Any]] = []
    figures = []
    for part in suite.asked:
        items = read_items(context.path("prompts", f"{part.name}.parquet"))
        said = {subject: read_answers(context.path(subject, f"{part.name}.parquet")) for subject in SUITE_SUBJECTS}
        for metric in part.metrics:
            found, figure = judge(part.name, metric, items, said)
            samples += found
            figures += [figure] if figure else []
    plain: list[dict[str, Any]] = []
    if suite.tasks:
        rows = {
            subject: pl.read_parquet(context.path(f"harness_{subject}", ROWS), glob=False).to_dicts()
            for subject in SUITE_SUBJECTS
        }
        documents = {subject: read_json(context, f"harness_{subject}", DOCUMENT) for subject in SUITE_SUBJECTS}
        found, of_tasks, plain = task_figures([part.name for part in suite.tasks], rows, documents)
        samples += found
        figures += of_tasks
    write_suite(samples, figures, plain, context.study.seed, folder)
    return {"suite": suite.suite.suite, "version": suite.suite.version, "figures": len(figures)}


def _suite_of(context: Context) -> ResolvedSuite:
    """The suite that a step is about, by the step's key."""
    key = context.step.key
    return next(
        suite
        for suite in resolve_suites(context.study)
        if key.endswith(f"/{SUITE}{suite.key}") or f"/harness_{suite.key}/" in key
    )


def _model(context: Context, subject: str) -> Any:
    if subject == "transplant":
        return context.models.guest(context.inputs["checkpoint"].folder() / "model")
    return context.models.model(subject)
