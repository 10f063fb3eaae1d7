"""Where in the network the moved neurons lie, and which of them the ranking puts first."""

from dataclasses import dataclass

import polars as pl

from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material

TOP_NEURONS = 10
DIGITS = 16
"""Hexadecimal digits of a digest that are shown."""


@dataclass(frozen=True)
class HeatCell:
    """Moved neurons of one layer and family; `shade` in 0..5 grows with their share of all it has."""

    moved: int
    neurons: int
    share: str
    shade: int


@dataclass(frozen=True)
class HeatMap:
    """Layers by families; `rows` are (layer, cells, moved in the layer), `totals` one cell a family."""

    families: tuple[str, ...]
    rows: tuple[tuple[int, tuple[HeatCell, ...], int], ...]
    totals: tuple[HeatCell, ...]


def heat_map(material: Material) -> HeatMap:
    """Moved neurons by layer and family, with every layer and family that has neurons."""
    everything = material.ranking.select("layer", "family", "neuron").unique()
    has = _counts(everything)
    moved = _counts(material.plan)
    layers = sorted({layer for layer, _ in has})
    families = sorted({family for _, family in has}, key=words.family_order)
    strongest = max(moved.get(key, 0) / count for key, count in has.items())
    cells = {key: _heat(moved.get(key, 0), count, strongest) for key, count in has.items()}
    absent = HeatCell(0, 0, words.NONE, 0)
    totals = []
    for family in families:
        ours, theirs = (sum(n for (_, f), n in counts.items() if f == family) for counts in (moved, has))
        totals.append(_heat(ours, theirs, 0.0))
    return HeatMap(
        families=tuple(families),
        rows=tuple(
            (
                layer,
                tuple(cells.get((layer, family), absent) for family in families),
                sum(count for (place, _), count in moved.items() if place == layer),
            )
            for layer in layers
        ),
        totals=tuple(totals),
    )


def _counts(neurons: pl.DataFrame) -> dict[tuple[int, str], int]:
    counted = neurons.group_by("layer", "family").len()
    return {(row["layer"], row["family"]): row["len"] for row in counted.iter_rows(named=True)}


def _heat(moved: int, neurons: int, strongest: float) -> HeatCell:
    part = moved / neurons
    shade = max(1, round(5 * part / strongest)) if moved and strongest else 0
    return HeatCell(moved, neurons, words.percent(part, 0), shade)


def top_neurons(material: Material) -> list[dict[str, str]]:
    """The moved neurons that the ranking puts first, with how sure their score is."""
    weight = material.selection["lookalike_weight"]
    ranked = material.ranking.filter(pl.col("lookalike_weight") == weight)
    signs = ranked.select("layer", "family", "neuron", "sign_agreement")
    rows = material.plan.join(signs, on=["layer", "family", "neuron"], how="left").sort("rank").head(TOP_NEURONS)
    return [
        {
            "rank": words.number(row["rank"]),
            "place": f"layer {row['layer']}, {row['family']}, neuron {row['neuron']}",
            "score": words.number(row["score"], 5),
            "error": words.number(row["standard_error"], 5),
            "agreement": words.percent(row["sign_agreement"], 0),
        }
        for row in rows.iter_rows(named=True)
    ]


def moved_bytes(material: Material) -> list[dict[str, str]]:
    """The tensors' rows and columns of those neurons, with the beginnings of their digests before and after."""
    order = ["rank", "layer", "family", "neuron", "parameters"]
    best = material.neurons.select("rank").unique().sort("rank").head(TOP_NEURONS)["rank"]
    rows = material.neurons.filter(pl.col("rank").is_in(best.implode())).sort(order, descending=[False] * 4 + [True])
    return [
        {
            "rank": words.number(row["rank"]),
            "tensor": row["tensor"],
            "where": f"{('row', 'column')[row['axis']]} {row['position']}",
            "amplitude": words.setting(row["amplitude"]),
            "parameters": words.number(row["parameters"]),
            "before": row["sha256_before"][:DIGITS],
            "after": row["sha256_after"][:DIGITS],
        }
        for row in rows.iter_rows(named=True)
    ]
