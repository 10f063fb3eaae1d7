"""Builders of the `evaluations` stage."""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.numpy import load_file

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.dimensions import Worked, write_dimensions
from cnt_pipeline.evaluations.frontier import Chosen, Settings, write_frontier
from cnt_pipeline.evaluations.leaderboard import Entry, write_leaderboard
from cnt_pipeline.evaluations.score import Said
from cnt_pipeline.evaluations.score import score as write_scores
from cnt_pipeline.evaluations.stability import write_stability
from cnt_pipeline.evaluations.verdict import write_verdict
from cnt_pipeline.measures.cost import Cost
from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.completions import as_variants, read_said
from cnt_pipeline.pipeline.builders.transplants import VERIFICATION, judge_of, space_of
from cnt_pipeline.pipeline.compare_steps import CAUSAL, COST, EDITED, PREFIX
from cnt_pipeline.pipeline.context import Context, read_json
from cnt_pipeline.pipeline.dimension_steps import KINDS as HARMFUL
from cnt_pipeline.pipeline.dimension_steps import MASKS, after, asked, checkpoint_key
from cnt_pipeline.pipeline.find_steps import SHARDS, caches_of
from cnt_pipeline.pipeline.step import SUBJECTS
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS, Effect
from cnt_pipeline.transplants.edit.table import EDITS
from cnt_pipeline.transplants.methods import METHODS
from cnt_pipeline.transplants.select.build import PLAN, SELECTION
from cnt_pipeline.transplants.select.candidates import Indices, gates_of, read_orders
from cnt_pipeline.transplants.select.judge import Outcome


def score(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Samples and metrics of every subject on the test prompts."""
    prompts = {kind: read_prompts(context.path("prompts", file_name("test", kind))) for kind in KINDS}
    said = {subject: read_said(context, subject) for subject in SUBJECTS}
    metrics = context.step.slice["metrics"]
    write_scores(prompts, said, metrics, context.study.seed, folder, context.step.slice.get("aside", ()))
    return {"metrics": list(metrics)}


def frontier(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Recovery and its price on selection prompts against parameters moved, with the controls."""
    study, judge, space = context.study, judge_of(context), space_of(context)
    setting = json.loads(context.path("selection", SELECTION).read_text(encoding="utf-8"))
    plan = pl.read_parquet(context.path("selection", PLAN), glob=False)
    outcome = Outcome(**{**setting["transplant"], "values": tuple(setting["transplant"]["values"])})
    if outcome.utility is None:  # the search found nothing, and asked no more than the function
        outcome = judge.outcome(gates_of(plan, context.models.architecture(), device_of(judge.swap.model)))
    effects: list[Effect] = list(context.step.slice["effects"])
    chosen = Chosen(
        neurons=space.numbers(plan),
        outcome=outcome,
        selection=setting["selection"],
        effect=effects[0],
        eta=setting["eta"],
        lookalike_weight=setting["lookalike_weight"],
    )
    orders = {
        effect: _drawn(
            read_orders(context.path(f"ranking_{effect}", RANKING), space, study.method.families),
            study.frontier.lookalike_weight or (setting["lookalike_weight"], 0.0),
        )
        for effect in effects
    }
    document = write_frontier(
        judge,
        space,
        chosen,
        orders,
        read_orders(context.path("deltas", RANKING), space, None)[0.0],
        Settings(
            budgets=tuple(sorted(study.frontier.budgets)),
            closer=study.frontier.closer,
            etas=tuple(sorted(study.frontier.eta)),
            control_etas=tuple(sorted({*study.frontier.eta, _amplitude(setting)})),
            random_seeds=study.frontier.random_seeds,
            seed=study.seed,
        ),
        folder,
        context.report,
    )
    return {"fewer_than_controls": document["fewer_than_controls"]}


def _amplitude(setting: Mapping[str, Any]) -> float:
    """The transplant's amplitude; where its neurons have their own, the median to two digits."""
    return float(setting["eta"] if setting["eta"] is not None else f"{setting['amplitude']['median']:.2g}")


def _drawn(orders: Mapping[float, Indices], weights: Sequence[float | None]) -> dict[float, Indices]:
    """The orders of the look-alike weights to draw; of those that the ranking holds where none is among them."""
    known = {weight: orders[weight] for weight in weights if weight is not None and weight in orders}
    return known or dict(orders)


def stability(context: Context, folder: Path) -> Mapping[str, JSON]:
    """How far the ranking depends on which prompts neurons were scored on."""
    effect: Effect = context.step.slice["effect"]
    space = space_of(context)
    caches = {
        name: [file for file in sorted(context.inputs[name].manifest.files) if fnmatch(file, SHARDS)]
        for name in caches_of(effect)
    }
    rows = write_stability(
        effect,
        {name: [context.path(name, file) for file in files] for name, files in caches.items()},
        context.path("ranking", RANKING),
        {(matrix.layer, matrix.family): matrix.parameters_per_neuron for matrix in space.matrices},
        space.total_parameters,
        float(context.step.slice.get("mu", 0.0)),
        context.study.frontier.resamples,
        context.study.seed,
        folder,
        context.report,
    )
    return {"spearman": max(row["mean"] for row in rows if row["measure"] == "spearman")}


def verdict(context: Context, folder: Path) -> Mapping[str, JSON]:
    """The quality gates."""
    return write_verdict(
        context.inputs["scores"].folder(),
        context.path("verification", VERIFICATION),
        context.study.function,
        context.study.accept,
        context.study.seed,
        folder,
        context.step.slice.get("aside", ()),
    )


def leaderboard(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`leaderboard.json`, with the samples and metrics behind it."""
    slice_ = context.step.slice
    prompts = {kind: read_prompts(context.path("prompts", file_name("test", kind))) for kind in KINDS}
    entries = [Entry(label="target"), Entry(label="donor"), _transplant(context)]
    said: dict[str, Said] = {subject: read_said(context, subject) for subject in ("target", "donor", "transplant")}
    metrics, causal = tuple(slice_["metrics"]), slice_.get("causal", ())
    patched: dict[str, Said] = {}
    by_label: dict[str, list[tuple[str, str]]] = {}
    for label, method, key in slice_["entries"]:
        by_label.setdefault(label, []).append((method, key))
    for label, drawn in by_label.items():
        said[label] = as_variants([read_said(context, f"{PREFIX}{key}") for _, key in drawn])
        if drawn[0][1] in causal:
            kinds = METRICS[metrics[0]].kinds
            patched[label] = as_variants([read_said(context, f"{CAUSAL}{key}", kinds) for _, key in drawn])
        documents = [
            (read_json(context, f"edit_{key}", EDITED), context.inputs[f"edit_{key}"].manifest.metadata[COST])
            for _, key in drawn
        ]
        entries.append(Entry.of_edits(label, EDITS[drawn[0][0]], documents))
    document = write_leaderboard(
        context.study.function, prompts, said, entries, metrics,
        slice_["task"], context.study.seed, folder, slice_.get("aside", ()), patched,
    )  # fmt: skip
    return {"entries": len(document["rows"]), "front": [row["name"] for row in document["rows"] if row["pareto"]]}


def dimensions(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`dimensions.json` and `dimensions.parquet`: every safety dimension so far, after each."""
    names = list(context.step.slice["dimensions"])
    (kind,) = HARMFUL

    def said(subject: str, asked_of: Sequence[str]) -> dict[str, list[Completion]]:
        return {name: read_said(context, asked(subject, name), HARMFUL)[kind] for name in asked_of}

    document = write_dimensions(
        context.study.function,
        {name: read_prompts(context.path(name, file_name("test", kind))) for name in names},
        said("target", names),
        said("donor", names),
        [
            Worked(
                entry=key,
                method=method,
                masks={name: load_file(context.path(checkpoint_key(key, name), MASKS)) for name in names},
                said={name: said(after(key, name), names[: at + 1]) for at, name in enumerate(names)},
            )
            for key, method in context.step.slice["entries"]
        ],
        context.study.seed,
        folder,
    )
    steps = [step for entry in document["entries"] for step in entry["steps"]]
    return {"rows": [step["rows"] for step in steps], "disjoint": all(step["shared"] == 0 for step in steps)}


def _transplant(context: Context) -> Entry:
    """The line of the study's own method; as with the others, its time leaves out probes."""
    row = METHODS[context.step.slice["method"]]
    chosen = read_json(context, "selection", SELECTION)
    plan = pl.read_parquet(context.path("selection", PLAN), columns=["layer", "family"], glob=False)
    moved = set(plan.iter_rows())
    modules = {
        matrix.module for matrix in context.models.architecture().matrices if (matrix.layer, matrix.family) in moved
    }
    return Entry(
        label="transplant", method=row.name, grade=row.grade, source=row.source,
        parameters=chosen["parameters"], share=chosen["share"], modules=len(modules),
        cost=Cost(sum(context.inputs[name].manifest.seconds for name in ("selection", "checkpoint"))),
    )  # fmt: skip
