"""Which plots a report shows, from the frontier, the stability of the ranking and the trials of the search."""

from dataclasses import dataclass

from markupsafe import Markup

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.frontier import Drawn, drawn
from cnt_pipeline.reports.material import Material
from cnt_pipeline.reports.plots import Point, Rule, Series, legend_mark, line_plot
from cnt_pipeline.reports.stability import stability_rows

SHARE_LABEL = "share of all parameters moved (log scale)"


@dataclass(frozen=True)
class Figure:
    """A plot with its heading and the sentence below it."""

    heading: str
    svg: Markup
    caption: str


def legend(material: Material) -> list[tuple[Markup, str]]:
    """Mark and name of every series of the frontier, and of the search's candidates."""
    marks = [(one.mark(), one.name) for one in drawn(material)]
    return [*marks, (legend_mark("s-trials", "dot", line=False), words.SERIES_NAMES["trials"])]


def frontier_figures(material: Material) -> list[Figure]:
    """Recovery, misfires and utility against the share of parameters moved."""
    series = drawn(material)
    misfire = MISFIRES[material.metric]
    donor, target = material.selection["donor"]["misfire"], material.selection["target"]["utility"]
    accept = material.accept
    gate = Rule(100 * accept.recovery, f"gate: {100 * accept.recovery:g} %")
    recovery = [_trials(material), *(one.series("recovery", intervals=True) for one in series)]
    return [
        Figure(
            "Recovery",
            _plot("recovery", recovery, "recovery", _recovery_words(series), [gate], (0.0, 100.0), "%"),
            "100 % is the donor, 0 % the target; whiskers are 95 % intervals.",
        ),
        Figure(
            "Misfires on look-alikes",
            _plot(
                "misfire",
                [one.series("misfire", 100, donor) for one in series],
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
                [one.series("utility", -100, target) for one in series],
                "loss against the target (points)",
                f"Loss of utility against the target's {words.percent(target)}, by budget.",
                [Rule(100 * accept.utility_loss, f"limit: {words.points(accept.utility_loss)}")],
                (0.0, max(200 * accept.utility_loss, 1.0)),
            ),
            f"Loss against the target's {words.percent(target)}; lower is better.",
        ),
    ]


def _trials(material: Material) -> Series:
    """Every candidate of the search, faint behind the series."""
    points = [Point(100 * row["share"], 100 * row["recovery"]) for row in material.trials.iter_rows(named=True)]
    return Series(words.SERIES_NAMES["trials"], points, "s-trials", "dot", line=False)


def stability_figure(material: Material) -> Figure:
    """How many of the best neurons stay among the best when the scoring prompts are drawn anew."""
    rows = stability_rows(material)
    kept = [Point(100 * r["share"], 100 * r["mean"], 100 * r["low"], 100 * r["high"]) for r in rows]
    chance = [Point(100 * r["share"], 100 * r["chance"]) for r in rows]
    text = "; ".join(f"{words.percent(r['mean'], 0)} of the best {words.share(r['share'])}" for r in rows)
    series = [
        Series("a random order", chance, "s-random", "square"),
        Series("the ranking", kept, "s-path", "circle"),
    ]
    return Figure(
        "Best neurons that stay among the best",
        _plot("stability", series, "kept", f"Kept over resamples: {text}.", [], (0.0, 100.0), "%"),
        "Circles: the ranking, whiskers from 5 to 95 % of the resamples. Squares: what a random order would keep.",
    )


def trials_figure(material: Material) -> Figure:
    """Every candidate of the search: filled where it met every limit."""
    rows = material.trials.to_dicts()
    points = [Point(100 * row["share"], 100 * row["recovery"], hollow=not row["holds"]) for row in rows]
    holding = sum(row["holds"] for row in rows)
    aim = Rule(100 * material.aim, f"asked for: {100 * material.aim:g} %")
    text = f"{len(rows)} candidates by share moved and recovery; {holding} of them met every limit."
    series = [Series("candidates", points, "s-path", "circle", line=False)]
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


def _recovery_words(series: list[Drawn]) -> str:
    parts = []
    for one in series:
        points = [f"{words.percent(row['recovery'], 0)} at {words.share(row['share'])}" for row in one.rows]
        parts.append(f"{one.name}: {', '.join(points)}")
    return "; ".join(parts) + "."
