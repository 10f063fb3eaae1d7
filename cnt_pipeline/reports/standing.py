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

LeaderRow = Mapping[str, Any]
"""A row of `leaderboard.json`."""


@dataclass(frozen=True)
class Standing:
    """What a row costs: the rise of its misfires over the donor's and the fall of its utility below the target's.

    Each is None where one of the two was not judged, and so is whether it keeps within the limit.
    """

    rise: float | None
    loss: float | None
    keeps_lookalikes: bool | None
    keeps_utility: bool | None

    @property
    def holds(self) -> bool | None:
        """Whether it keeps within both limits; None where that cannot be said."""
        both = (self.keeps_lookalikes, self.keeps_utility)
        return False if False in both else None if None in both else True


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


def standing(document: Mapping[str, Any], row: LeaderRow, accept: Accept) -> Standing:
    """How a row stands against the limits, which the verdict holds the study's own transplant to as well."""
    by_name = {each["name"]: each for each in document["rows"]}
    rise = _difference(row, by_name["donor"], document["misfire"])
    loss = _difference(by_name["target"], row, "utility")
    return Standing(rise, loss, _within(rise, accept.over_refusal), _within(loss, accept.utility_loss))


def best_within(document: Mapping[str, Any], accept: Accept) -> LeaderRow | None:
    """The method of the highest recovery among those that keep within both limits."""
    methods = [row for row in ranked(document["rows"]) if row["method"] and row["recovery"] is not None]
    return next((row for row in methods if standing(document, row, accept).holds), None)


def _difference(one: LeaderRow, other: LeaderRow, metric: str) -> float | None:
    if metric not in one["metrics"] or metric not in other["metrics"]:
        return None
    return float(one["metrics"][metric]["value"] - other["metrics"][metric]["value"])


def _within(harm: float | None, limit: float) -> bool | None:
    return None if harm is None else harm <= limit + ROUNDING
