"""Which plots a report shows, from the recovery curve and the trials of the search."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material
from cnt_pipeline.reports.plots import Point, Rule, Series, legend_mark, line_plot

LOOKS = {
    "ranking": ("s-ranking", "circle"),
    "random": ("s-random", "square"),
    "largest_delta": ("s-delta", "triangle"),
    "transplant": ("s-transplant", "diamond"),
}
"""Class and marker of each series of the curve; the transplant is a single point, drawn last."""

SHARE_LABEL = "share of all parameters moved (log scale)"


@dataclass(frozen=True)
class Figure:
    """A plot with its heading and the sentence below it."""

    heading: str
    svg: Markup
    caption: str


def legend() -> list[tuple[Markup, str]]:
    """Mark and name of every series of the curve."""
    return [
        (legend_mark(look, marker, series != "transplant"), words.SERIES_NAMES[series])
        for series, (look, marker) in LOOKS.items()
    ]


def curve_figures(material: Material) -> list[Figure]:
    """Recovery, misfires and utility against the share of parameters moved."""
    rows = material.curve.to_dicts()
    misfire = MISFIRES[material.metric]
    donor, target = material.selection["donor"]["misfire"], material.selection["target"]["utility"]
    accept = material.accept
    gate = Rule(100 * accept.recovery, f"gate: {100 * accept.recovery:g} %")
    recovery = _series(rows, lambda r: _scaled(r["recovery"]), intervals=True)
    rise = _series(rows, lambda r: None if r["misfire"] is None else 100 * (r["misfire"] - donor))
    loss = _series(rows, lambda r: None if r["utility"] is None else 100 * (target - r["utility"]))
    return [
        Figure(
            "Recovery",
            _plot("recovery", recovery, "recovery", _recovery_words(rows), [gate], (0.0, 100.0), "%"),
            "100 % is the donor, 0 % the target; whiskers are 95 % intervals.",
        ),
        Figure(
            "Misfires on look-alikes",
            _plot(
                "misfire",
                rise,
                "rise over the donor (points)",
                f"Rise of {words.metric_name(misfire)} over the donor's {words.percent(donor)}, by budget.",
                [Rule(100 * accept.over_refusal, f"limit: {words.points(accept.over_refusal)}")],
                (0.0, max(200 * accept.over_refusal, 1.0)),
            ),
            f"Rise of {words.metric_name(misfire)} over the donor's {words.percent(donor)}; lower is better.",
        ),
        Figure(
            "Utility lost",
            _plot(
                "utility",
                loss,
                "loss against the target (points)",
                f"Loss of utility against the target's {words.percent(target)}, by budget.",
                [Rule(100 * accept.utility_loss, f"limit: {words.points(accept.utility_loss)}")],
                (0.0, max(200 * accept.utility_loss, 1.0)),
            ),
            f"Loss against the target's {words.percent(target)}; lower is better.",
        ),
    ]


def trials_figure(material: Material) -> Figure:
    """Every candidate of the search: filled where it met every limit."""
    rows = material.trials.to_dicts()
    points = [Point(100 * row["share"], 100 * row["recovery"], hollow=not row["holds"]) for row in rows]
    holding = sum(row["holds"] for row in rows)
    aim = Rule(100 * material.aim, f"asked for: {100 * material.aim:g} %")
    text = f"{len(rows)} candidates by share moved and recovery; {holding} of them met every limit."
    series = [Series("candidates", points, "s-ranking", "circle", line=False)]
    return Figure(
        "Candidates of the search",
        _plot("trials", series, "recovery", text, [aim], (0.0, 100.0), "%"),
        "A filled mark met every limit on the selection prompts, a hollow one did not.",
    )


def _plot(
    name: str,
    series: list[Series],
    y_label: str,
    description: str,
    rules: list[Rule],
    y_range: tuple[float, float],
    unit: str = "",
) -> Markup:
    return line_plot(
        name,
        f"{y_label} by {SHARE_LABEL}",
        description,
        series,
        SHARE_LABEL,
        y_label,
        lambda x: f"{x:.12g} %",
        lambda y: f"{y:g} {unit}".strip(),
        rules,
        y_range,
    )


def _series(
    rows: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None], intervals: bool = False
) -> list[Series]:
    found = []
    for name, (look, marker) in LOOKS.items():
        points = [
            Point(100 * row["share"], y, *((_scaled(row["low"]), _scaled(row["high"])) if intervals else ()))
            for row in rows
            if row["series"] == name and (y := value(row)) is not None
        ]
        found.append(Series(words.SERIES_NAMES[name], points, look, marker, line=name != "transplant"))
    return found


def _scaled(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _recovery_words(rows: list[dict[str, Any]]) -> str:
    parts = []
    for name in LOOKS:
        points = [
            f"{words.percent(r['recovery'], 0)} at {words.share(r['share'])}" for r in rows if r["series"] == name
        ]
        if points:
            parts.append(f"{words.SERIES_NAMES[name]}: {', '.join(points)}")
    return "; ".join(parts) + "."
