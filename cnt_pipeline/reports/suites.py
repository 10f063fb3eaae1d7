"""What target, donor and transplant did in the study's evaluation suites."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material, SuiteFigures

SHOWN = ("target", "transplant", "donor")
WANTED = {"higher": "higher is better", "lower": "lower is better", "middle": "", "depends": ""}

TITLES = {
    "stereoset_lms": "StereoSet LMS",
    "stereoset_ss": "StereoSet SS",
    "stereoset_icat": "StereoSet ICAT",
    "crows_pairs": "CrowS-Pairs",
    "bbq_accuracy_ambiguous": "BBQ accuracy, ambiguous",
    "bbq_accuracy_disambiguated": "BBQ accuracy, disambiguated",
    "bbq_bias_ambiguous": "BBQ bias, ambiguous",
    "bbq_bias_disambiguated": "BBQ bias, disambiguated",
}
"""Names of published scores as their papers write them."""


@dataclass(frozen=True)
class SuiteCell:
    """One model's figure: value, interval, and the paired difference from the target with its own."""

    value: str
    interval: str
    change: str
    change_interval: str


@dataclass(frozen=True)
class SuiteRow:
    """One figure of a part; `cells` are of target, transplant and donor."""

    metric: str
    meaning: str
    cells: tuple[SuiteCell, ...]
    n: str
    unscored: int
    views: tuple[str, ...]
    """Ids of the views of the samples behind `cells`."""


@dataclass(frozen=True)
class SuitePart:
    """The figures of one part, and how many of its prompts were left out."""

    name: str
    source: str
    left_out: int
    rows: tuple[SuiteRow, ...]


@dataclass(frozen=True)
class SuiteBlock:
    """One suite."""

    called: str
    version: str
    meaning: str
    parts: tuple[SuitePart, ...]


def suite_blocks(material: Material) -> list[SuiteBlock]:
    """A block for every suite of the study, in its order."""
    return [_block(at, suite) for at, suite in enumerate(material.suites)]


def suite_view(suite: int, part: int, metric: int, subject: str) -> str:
    """Id of the view of a figure, by its places as `numbered` gives them."""
    return f"v-s{suite}p{part}m{metric}-{subject}"


def numbered(suite: SuiteFigures) -> Mapping[str, Mapping[str, int]]:
    """The place of every metric in its part, by part in the suite's order."""
    found: dict[str, dict[str, int]] = {}
    for row in suite.figures.iter_rows(named=True):
        metrics = found.setdefault(row["part"], {})
        metrics.setdefault(row["metric"], len(metrics))
    return found


def metric_title(metric: str) -> str:
    """A metric's name in a sentence."""
    return TITLES.get(metric) or words.metric_name(metric)


def _block(at: int, suite: SuiteFigures) -> SuiteBlock:
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row in suite.figures.iter_rows(named=True):
        found.setdefault(row["part"], {}).setdefault(row["metric"], {})[row["subject"]] = row
    parts = tuple(
        SuitePart(
            name.replace("_", " "),
            next(iter(next(iter(metrics.values())).values()))["source"],
            suite.left_out.get(name, 0),
            tuple(
                _row(metric, by_subject, tuple(suite_view(at, part, place, subject) for subject in SHOWN))
                for place, (metric, by_subject) in enumerate(metrics.items())
            ),
        )
        for part, (name, metrics) in enumerate(found.items())
    )
    version = f"{suite.name} version {suite.version}"
    return SuiteBlock(suite.called.replace("_", " "), version, suite.meaning, parts)


def _row(metric: str, by_subject: dict[str, dict[str, Any]], views: tuple[str, ...]) -> SuiteRow:
    any_row = next(iter(by_subject.values()))
    wanted = WANTED[any_row["better"]]
    judged = by_subject.get("transplant", any_row)
    return SuiteRow(
        words.sentence(metric_title(metric)),
        "; ".join(part for part in (any_row["meaning"], wanted) if part),
        tuple(_cell(by_subject.get(subject)) for subject in SHOWN),
        words.number(judged["n"]),
        judged["unscored"],
        views,
    )


def _cell(row: dict[str, Any] | None) -> SuiteCell:
    if row is None:
        return SuiteCell("not judged", "", "", "")
    unit = row["unit"]
    if row["value"] is None:
        return SuiteCell("undefined", "", "", "")
    interval = "" if row["low"] is None else f"{figure(unit, row['low'])} to {figure(unit, row['high'])}"
    changed, around = "", ""
    if row["vs_target"] is not None:
        changed = change(unit, row["vs_target"])
        around = f"{change(unit, row['vs_target_low'])} to {change(unit, row['vs_target_high'])}"
    return SuiteCell(figure(unit, row["value"]), interval, changed, around)


def figure(unit: str, value: float) -> str:
    """A value in its unit."""
    if unit == "share":
        return words.percent(value)
    return words.number(float(value), 1 if unit == "percentage" else 3)


def change(unit: str, value: float) -> str:
    """A signed difference, in points for shares and percentages."""
    scaled, digits = (100 * value, 1) if unit == "share" else (value, 1 if unit == "percentage" else 3)
    return f"{scaled:+.{digits}f}".replace("-", "−")
