"""The report's tables as rows of text: metrics, gates, trials and lineage."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import SUBJECTS, Material, Origin
from cnt_pipeline.reports.views import trial_view, view_of


@dataclass(frozen=True)
class Cell:
    """One subject on one metric; `vs_*` are paired differences, empty for the subject itself."""

    subject: str
    name: str
    value: str
    interval: str
    n: str
    unscored: int
    vs_target: str
    vs_target_interval: str
    vs_donor: str
    vs_donor_interval: str


@dataclass(frozen=True)
class MetricBlock:
    """One metric with a cell for every subject; `judged` is False where no sample could be judged at all."""

    metric: str
    name: str
    meaning: str
    wanted: str
    unit: str
    judged: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Gate:
    """One quality gate in words; `view` is the id of the samples behind its figure, empty where there are none."""

    question: str
    passed: bool
    figure: str
    limit: str
    sentence: str
    view: str


@dataclass(frozen=True)
class Step:
    """One step of the lineage, with its slice of the study and the digests of what it read as JSON."""

    origin: Origin
    slice: str
    inputs: tuple[tuple[str, str], ...]


def metric_blocks(material: Material) -> list[MetricBlock]:
    """A block per metric in the order of the evaluation; what could not be judged says so."""
    found = {(row["subject"], row["metric"]): row for row in material.metrics.iter_rows(named=True)}
    asked = {
        (row["subject"], row["metric"]): row["asked"]
        for row in material.samples.group_by("subject", "metric")
        .agg(pl.col("id").n_unique().alias("asked"))
        .iter_rows(named=True)
    }
    order = dict.fromkeys([*material.samples["metric"].to_list(), *material.metrics["metric"].to_list()])
    return [
        MetricBlock(
            metric=metric,
            name=words.metric_name(metric),
            meaning=words.metric_meaning(metric),
            wanted=words.wanted(metric, material.function),
            unit=words.difference_unit(metric),
            judged=any((subject, metric) in found for subject in SUBJECTS),
            cells=tuple(
                _cell(subject, metric, found.get((subject, metric)), asked.get((subject, metric), 0))
                for subject in SUBJECTS
            ),
        )
        for metric in order
    ]


def _cell(subject: str, metric: str, row: Mapping[str, Any] | None, asked: int) -> Cell:
    name = words.SUBJECT_NAMES[subject]
    if row is None and (subject, metric) == ("target", "target_kl"):
        return Cell(subject, name, words.NONE, "", words.NONE, 0, words.NONE, "", words.NONE, "")
    if row is None:
        return Cell(subject, name, "not judged", "", "0", asked, words.NONE, "", words.NONE, "")
    differences = [
        text
        for other in ("vs_target", "vs_donor")
        for text in (
            words.difference(metric, row[other]),
            words.interval(metric, row[f"{other}_low"], row[f"{other}_high"], signed=True),
        )
    ]
    shown = words.amount(metric, row["value"]), words.interval(metric, row["low"], row["high"])
    return Cell(subject, name, *shown, words.number(row["n"]), row["unscored"], *differences)


def gates(material: Material) -> list[Gate]:
    """The verdict's checks in its order."""
    misfire = MISFIRES[material.metric]
    return [
        Gate(
            words.QUESTIONS.get(check["name"], f"{check['name'].replace('_', ' ').capitalize()}?"),
            bool(check["passed"]),
            *words.check_figures(check, material.metric, misfire),
            str(check["sentence"]),
            _view(str(check["name"]), material.metric, misfire),
        )
        for check in material.verdict["checks"]
    ]


def _view(check: str, metric: str, misfire: str) -> str:
    return {
        "admissible": view_of(metric, "donor", "target"),
        "effect_reached": "v-recovery",
        "lookalikes_kept": view_of(misfire, "transplant", "donor"),
        "utility_kept": view_of("utility", "transplant", "target"),
        "coherence_kept": view_of("coherence", "transplant", "target"),
        "control_random_beaten": view_of(metric, "transplant", "control_random"),
        "control_largest_delta_beaten": view_of(metric, "transplant", "control_largest_delta"),
    }.get(check, "")


def trial_rows(material: Material) -> list[dict[str, str]]:
    """Every candidate of the search in the order tried."""
    misfire = MISFIRES[material.metric]
    return [
        {
            "view": trial_view(row["number"]),
            "number": str(row["number"] + 1),
            "phase": row["phase"],
            "lambda": words.amplitude(row["lookalike_weight"]),
            "eta": words.amplitude(row["eta"]),
            "neurons": words.number(row["neurons"]),
            "share": words.share(row["share"]),
            "recovery": words.percent(row["recovery"]),
            "misfire": words.amount(misfire, row["misfire"]),
            "utility": words.amount("utility", row["utility"]),
            "holds": "yes" if row["holds"] else "no",
        }
        for row in material.trials.iter_rows(named=True)
    ]


def lineage(material: Material) -> list[Step]:
    """Every step behind the report, in the order of the chain."""
    return [
        Step(
            origin,
            json.dumps(origin.slice, sort_keys=True, ensure_ascii=False),
            tuple(origin.inputs.items()),
        )
        for origin in material.origins
    ]
