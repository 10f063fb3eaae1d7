"""A small study's material, made by hand: no model and no store behind it."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.needed import write_needed
from cnt_pipeline.evaluations.schema import FRONTIER_SCHEMA, METRICS_SCHEMA, SAMPLES_SCHEMA, STABILITY_SCHEMA
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import SUBJECTS, Material, Model, Origin
from cnt_pipeline.study.schema import KINDS, Accept, Function, Method
from cnt_pipeline.transplants.methods import resolve

MakeMaterial = Callable[..., Material]
SCRIPT = "<script>alert('x')</script>"
REFUSED = {
    "target": 0.0,
    "transplant": 1.0,
    "donor": 1.0,
    "control_random": 0.0,
    "control_largest_delta": 0.0,
}


def _frame(rows: list[dict[str, Any]], schema: Any) -> pl.DataFrame:
    empty = pl.DataFrame(schema.empty_table())
    return pl.DataFrame(rows, schema=empty.schema) if rows else empty


def metric_row(subject: str, metric: str, value: float, **changes: Any) -> dict[str, Any]:
    """A row of metrics.parquet with an interval of 0.02 and no differences."""
    row: dict[str, Any] = dict.fromkeys(METRICS_SCHEMA.names)
    low, high = max(value - 0.01, 0), min(value + 0.01, 1)
    given = {
        "subject": subject,
        "metric": metric,
        "source": "",
        "value": value,
        "low": low,
        "high": high,
        "n": 40,
        "unscored": 0,
    }
    return row | given | changes


def metrics_frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Rows as metrics.parquet holds them."""
    return _frame(rows, METRICS_SCHEMA)


def samples_frame(rows: list[tuple[str, str, str, str, float | None]]) -> pl.DataFrame:
    """Rows of (subject, metric, kind, id, value) as samples.parquet holds them."""
    names = ("subject", "metric", "kind", "id", "value")
    return _frame(
        [dict(zip(names, row, strict=True)) | {"variant": 0, "source": "asked.jsonl"} for row in rows], SAMPLES_SCHEMA
    )


def check(name: str, passed: bool, value: float | None = 0.5, limit: float | None = 0.3) -> dict[str, Any]:
    """One gate as verdict.json holds it."""
    return {
        "name": name,
        "passed": passed,
        "value": value,
        "limit": limit,
        "sentence": f"Sentence of {name}.",
    }


def _completion(subject: str, kind: str, number: int) -> Completion:
    refused = kind == "function" and REFUSED[subject]
    text = "I cannot help with that." if refused else f"Answer {number} {SCRIPT}"
    return Completion(f"{kind}{number}", 0, text, (1, 2), True, -1.0)


def _samples() -> pl.DataFrame:
    rows: list[tuple[str, str, str, str, float | None]] = []
    for subject in SUBJECTS:
        for number in range(5):
            rows.append((subject, "refusal", "function", f"function{number}", REFUSED[subject]))
            rows.append((subject, "over_refusal", "lookalike", f"lookalike{number}", 0.0))
            rows.append((subject, "utility", "utility", f"utility{number}", 1.0))
    return samples_frame(rows)


def _frontier() -> pl.DataFrame:
    rows: list[dict[str, Any]] = []
    for series, effect, weight, reached in (
        ("transplant", "path", 0.5, 1.0), ("effect", "path", 0.5, 1.0), ("effect", "path", 0.0, 0.9),
        ("effect", "gradient", 0.5, 0.6), ("random", None, None, 0.0), ("largest_delta", None, None, 0.2),
        ("whole_donor", None, None, 1.0),
    ):  # fmt: skip
        for budget in (1,) if series in ("transplant", "whole_donor") else (1, 2):
            for variant in (0, 1, None) if series == "random" else (None,):
                name = {"series": series, "effect": effect, "lookalike_weight": weight, "variant": variant, "eta": 1.0}
                size = {"neurons": 4 * budget, "parameters": 64 * budget, "share": 0.01 * budget}
                recovery = {"recovery": reached, "low": reached - 0.1, "high": reached, "function": reached}
                cost = {"misfire": None, "utility": None} if series == "random" else {"misfire": 0.0, "utility": 0.99}
                rows.append(name | size | recovery | cost | {"selection": None, "coherence": None})
    return _frame(rows, FRONTIER_SCHEMA)


def _stability() -> pl.DataFrame:
    about = {"effect": "path", "lookalike_weight": 0.5, "resamples": 20}
    rows = [
        about | {"measure": "overlap", "share": share, "neurons": count, "mean": 0.8, "low": 0.7, "high": 0.9,
                 "chance": count / 32}
        for share, count in ((0.005, 2), (0.01, 4), (0.04, 16))
    ]  # fmt: skip
    overall = {"measure": "spearman", "share": None, "neurons": 32, "mean": 0.97, "low": 0.9, "high": 0.99, "chance": 0}
    return _frame([*rows, about | overall], STABILITY_SCHEMA)


def _trials() -> pl.DataFrame:
    common = {"lookalike_weight": 0.5, "eta": 1.0, "utility": None, "misfire": None}
    return pl.DataFrame(
        [
            {"number": 0, "phase": "double", "neurons": 1, "parameters": 16, "share": 0.0001, "function": 0.1,
             "recovery": 0.1, "holds": False} | common,
            {"number": 1, "phase": "bisect", "neurons": 4, "parameters": 64, "share": 0.01, "function": 1.0,
             "recovery": 1.0, "holds": True} | common | {"utility": 0.99, "misfire": 0.0},
        ],
        schema_overrides={"utility": pl.Float64, "misfire": pl.Float64},
    )  # fmt: skip


def _neurons() -> tuple[pl.DataFrame, pl.DataFrame]:
    everything = [
        {"layer": layer, "family": family, "neuron": neuron}
        for layer in (0, 1)
        for family in ("down", "q")
        for neuron in range(8)
    ]
    ranked = [
        row
        | {
            "lookalike_weight": weight,
            "score": 1 / (rank + 1),
            "standard_error": 0.01,
            "sign_agreement": 0.9,
            "rank": rank + 1,
        }
        for weight in (0.0, 0.5)
        for rank, row in enumerate(everything)
    ]
    places = [(0, "down", 0), (0, "down", 1), (1, "q", 3), (1, "down", 7)]
    plan = [
        {"layer": layer, "family": family, "neuron": neuron, "score": 0.5, "rank": rank, "standard_error": 0.01}
        for rank, (layer, family, neuron) in enumerate(places, 1)
    ]
    return pl.DataFrame(ranked), pl.DataFrame(plan)


def _moved(plan: pl.DataFrame) -> pl.DataFrame:
    """The edit list of a plan whose q neurons have a bias."""
    rows = []
    for number, row in enumerate(plan.iter_rows(named=True)):
        name, axis = f"{row['layer']}.{row['family']}", int(row["family"] == "down")
        digests = {"sha256_before": f"{number}a" * 32, "sha256_after": f"{number}b" * 32}
        place = {"position": row["neuron"], "amplitude": 1.0} | digests
        rows.append(row | place | {"tensor": f"{name}.weight", "axis": axis, "parameters": 16})
        if not axis:
            rows.append(row | place | {"tensor": f"{name}.bias", "axis": 0, "parameters": 1})
    return pl.DataFrame(rows)


@pytest.fixture
def make_material(tmp_path_factory: pytest.TempPathFactory) -> MakeMaterial:
    """Builds the material of a passing study; keywords replace fields."""

    tmp_path = tmp_path_factory.mktemp("needed")

    def make(**changes: Any) -> Material:
        ranking, plan = _neurons()
        facts = {
            "neurons": 32,
            "parameters": 6400,
            "files": {"model.safetensors": {"sha256": "f" * 64, "size": 9}},
        }
        prompts = {
            kind: [
                Prompt(f"{kind}{n}", (("user", f"{kind} prompt {n} {SCRIPT}"),), source="asked.jsonl") for n in range(5)
            ]
            for kind in KINDS
        }
        origin = Origin("transplants/checkpoint", 1, "a" * 64, "b" * 64, {"edit": "copy"}, {"plan": "c" * 64},
                        {"model/model.safetensors": "d" * 64, "inverse.safetensors": "e" * 64})  # fmt: skip
        scores = Origin("evaluations/scores", 1, "1" * 64, "2" * 64, {"scorers": {"refusal": 1}}, {}, {})
        outcome = {"function": 0.0, "misfire": 0.0, "utility": 1.0}
        fields: dict[str, Any] = {
            "study": "small",
            "function": Function(name="refusal"),
            "method": resolve(Method()),
            "accept": Accept(),
            "aim": 0.98,
            "target": Model("helpful", "org/helpful", facts),
            "donor": Model("aligned", "org/aligned", facts),
            "comparison": {
                "agreements": ["2 layers"], "notes": [], "warnings": [], "non_neuron_tensors": {"norm": 0.0},
            },
            "completeness": {
                "loss_at_target": 1.0, "loss_at_donor": 0.5, "sum_of_effects": 0.49, "completeness_gap": 0.02,
            },
            "ranking": ranking,
            "plan": plan,
            "neurons": _moved(plan),
            "trials": _trials(),
            "selection": {
                "neurons": 4, "parameters": 64, "total_parameters": 6400, "share": 0.01, "eta": 1.0,
                "trials": 2, "lookalike_weight": 0.5, "recovery": 1.0, "meets_every_limit": True,
                "target": outcome, "donor": outcome | {"function": 1.0},
                "transplant": outcome | {"function": 1.0},
            },
            "verification": {
                "holds": True, "offence": None, "bytes_compared": 900, "neurons": 4, "parameters": 64,
                "parameters_changed": 60,
            },
            "metrics": metrics_frame(
                [metric_row(s, "refusal", REFUSED[s]) for s in SUBJECTS]
                + [metric_row(s, "over_refusal", 0.0) for s in SUBJECTS]
                + [metric_row(s, "utility", 0.99) for s in SUBJECTS]
            ),
            "samples": _samples(),
            "by_source": metrics_frame([]),
            "seen": frozenset({"asked.jsonl"}),
            "frontier": _frontier(),
            "needed": write_needed(_frontier().to_dicts(), tmp_path),
            "stability": _stability(),
            "verdict": {
                "verdict": "pass", "sentence": "Every quality gate holds.", "recovery": 1.0, "beside": [],
                "checks": [
                    check("effect_reached", True, 1.0, 0.95), check("nothing_else_changed", True, None, None),
                ],
            },
            "prompts": prompts,
            "said": {s: {k: [_completion(s, k, n) for n in range(5)] for k in KINDS} for s in SUBJECTS},
            "origins": [scores, origin],
        }  # fmt: skip
        return Material(**(fields | changes))

    return make
