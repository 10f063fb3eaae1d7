"""How certain the transplant's differences are, as rows of text."""

from dataclasses import dataclass
from typing import Any

from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material


@dataclass(frozen=True)
class CertaintyRow:
    """The transplant against one model on one metric: the verdict in `words`, and `p` corrected over the metrics."""

    metric: str
    name: str
    against: str
    words: str
    difference: str
    interval: str
    p: str
    mde: str
    n: str


def certainty_rows(material: Material) -> list[CertaintyRow]:
    """A row per metric and reference, in the order of the metrics; none without statistics."""
    if material.certainty is None:
        return []
    own = material.certainty.table.filter(subject="transplant", source="")
    found = {(row["metric"], row["against"]): row for row in own.iter_rows(named=True)}
    return [_row(verdict, found[verdict["metric"], verdict["against"]])
            for verdict in material.certainty.document["verdicts"]]  # fmt: skip


def _row(verdict: dict[str, Any], row: dict[str, Any]) -> CertaintyRow:
    metric = row["metric"]
    return CertaintyRow(
        metric=metric,
        name=words.metric_name(metric),
        against=row["against"],
        words=verdict["sentence"].split(" (")[0],  # what would have gone unseen has a column of its own
        difference=words.change(metric, row["difference"]),
        interval=words.interval(metric, row["low"], row["high"], signed=True),
        p=p_value(row["p_holm"]),
        mde=words.NONE if row["mde"] is None else words.change(metric, row["mde"]).removeprefix("+"),
        n=words.number(row["n"]),
    )


def p_value(p: float) -> str:
    """A p-value to three decimals, as a bound where it is smaller."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
