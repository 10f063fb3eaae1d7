"""How the rows of a leaderboard stand: their order, and whether each keeps to the study's limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.metrics import ROUNDING
from cnt_pipeline.study.schema import Accept

REFERENCES = ("target", "donor")
"""Rows that are models as they came, in the order shown."""
OWN = "transplant"
"""The row of the study's own method."""

NAMES = {
    "target": "Target",
    "donor": "Donor",
    OWN: "The study's own method",
}
"""Rows that are not called by their method."""

TASK = "task"
"""Key of the user's task among a row's metrics; it is an exact match."""

LeaderRow = Mapping[str, Any]
"""A row of `leaderboard.json`."""


@dataclass(frozen=True)
class Kept:
    """One limit of the study and how a row keeps to it: the rise of its misfires over the donor's, or the fall of
    `metric` below the target's.

    Both are None where one of the two was not judged.
    """

    metric: str
    harm: float | None
    keeps: bool | None


@dataclass(frozen=True)
class Standing:
    """What a row costs, limit by limit: misfires, utility, and the user's task where the study has one."""

    limits: tuple[Kept, ...]

    @property
    def holds(self) -> bool | None:
        """Whether it keeps within all limits; None where that cannot be said."""
        kept = [limit.keeps for limit in self.limits]
        return False if False in kept else None if None in kept else True

    def keeps(self, metric: str) -> bool | None:
        """Whether it keeps to the limit on `metric`; None where that cannot be said, or there is no such limit."""
        return next((limit.keeps for limit in self.limits if limit.metric == metric), None)


def ranked(rows: Sequence[LeaderRow]) -> list[LeaderRow]:
    """The references, then the methods from the highest recovery down; those without one last; of equals, the one that
    changed the fewest parameters first."""

    def place(row: LeaderRow) -> tuple[int, float, float, str]:
        if row["name"] in REFERENCES:
            return (REFERENCES.index(row["name"]), 0.0, 0.0, "")
        changed = float("inf") if row["parameters"] is None else row["parameters"]
        if row["recovery"] is None:
            return (len(REFERENCES) + 1, 0.0, changed, row["name"])
        return (len(REFERENCES), -round(row["recovery"], 9), changed, row["name"])

    return sorted(rows, key=place)


def limited(document: Mapping[str, Any]) -> dict[str, str]:
    """What the study limits, each with the model that it is measured against: misfires, utility, and its task."""
    return {document["misfire"]: "donor", "utility": "target", **({TASK: "target"} if document["task"] else {})}


def standing(document: Mapping[str, Any], row: LeaderRow, accept: Accept) -> Standing:
    """How a row stands against the limits, which the verdict holds the study's own transplant to as well.

    The user's task may lose as much as utility may.
    """
    by_name = {each["name"]: each for each in document["rows"]}
    misfire = document["misfire"]
    return Standing(
        tuple(
            _limited(metric, _difference(row, by_name[other], metric), accept.over_refusal)
            if metric == misfire
            else _limited(metric, _difference(by_name[other], row, metric), accept.utility_loss)
            for metric, other in limited(document).items()
        )
    )


def best_within(document: Mapping[str, Any], accept: Accept) -> LeaderRow | None:
    """The method of the highest recovery among those that keep within the limits."""
    methods = [row for row in ranked(document["rows"]) if row["method"] and row["recovery"] is not None]
    return next((row for row in methods if standing(document, row, accept).holds), None)


def _difference(one: LeaderRow, other: LeaderRow, metric: str) -> float | None:
    if metric not in one["metrics"] or metric not in other["metrics"]:
        return None
    return float(one["metrics"][metric]["value"] - other["metrics"][metric]["value"])


def _limited(metric: str, harm: float | None, limit: float) -> Kept:
    return Kept(metric, harm, None if harm is None else harm <= limit + ROUNDING)
