"""How the function and its misfires do on each source of test prompts."""

from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material

SHOWN = ("target", "transplant", "donor")


@dataclass(frozen=True)
class SourceRow:
    """One source: value and interval of target, transplant and donor.

    `seen` if scoring or search read of it too, `gated` if the gates read it.
    """

    source: str
    seen: bool
    gated: bool
    n: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SourceBlock:
    """One metric with a row for every source of its test prompts."""

    metric: str
    name: str
    meaning: str
    rows: tuple[SourceRow, ...]


def source_blocks(material: Material) -> list[SourceBlock]:
    """The function's metric, its misfires and utility, where their test prompts come from several sources."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in material.by_source.iter_rows(named=True):
        found.setdefault((row["metric"], row["source"]), {})[row["subject"]] = row
    blocks = []
    for metric in (material.metric, MISFIRES[material.metric], "utility"):
        rows = tuple(
            _row(material, metric, source, by_subject) for (name, source), by_subject in found.items() if name == metric
        )
        if rows:
            blocks.append(SourceBlock(metric, words.metric_name(metric), words.metric_meaning(metric), rows))
    return blocks


def _row(material: Material, metric: str, source: str, by_subject: dict[str, dict[str, Any]]) -> SourceRow:
    cells = []
    for subject in SHOWN:
        row = by_subject.get(subject)
        if row is None:
            cells.append(("not judged", ""))
        else:
            cells.append((words.amount(metric, row["value"]), words.interval(metric, row["low"], row["high"])))
    judged = by_subject.get("transplant")
    return SourceRow(
        source,
        source in material.seen,
        source not in material.aside,
        words.number(judged["n"] if judged else 0),
        tuple(cells),
    )
