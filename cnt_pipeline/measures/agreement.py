"""How far two judges, or a judge and people, agree on a yes or no: counts, accuracy, precision, recall and kappa."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.intervals import wilson_interval


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson interval, `count` of `n`; None for a share of nothing."""

    count: int
    n: int

    def document(self) -> dict[str, Any] | None:
        """Value and interval."""
        if not self.n:
            return None
        low, high = wilson_interval(self.count, self.n)
        return {"value": self.count / self.n, "low": low, "high": high, "n": self.n}


@dataclass(frozen=True)
class Agreement:
    """Counts of a two-by-two table: `yes_no` is a yes of the first with a no of the second."""

    yes_yes: int
    yes_no: int
    no_yes: int
    no_no: int

    @property
    def n(self) -> int:
        """Answers that both judged."""
        return self.yes_yes + self.yes_no + self.no_yes + self.no_no

    @property
    def agreed(self) -> Rate:
        """Share on which both say the same: the accuracy of the first where the second is the truth."""
        return Rate(self.yes_yes + self.no_no, self.n)

    @property
    def precision(self) -> Rate:
        """Share of the first's yeses that the second shares."""
        return Rate(self.yes_yes, self.yes_yes + self.yes_no)

    @property
    def recall(self) -> Rate:
        """Share of the second's yeses that the first shares."""
        return Rate(self.yes_yes, self.yes_yes + self.no_yes)

    def kappa(self) -> dict[str, float] | None:
        """Cohen's kappa (1960) with its 95 % interval, by statsmodels; None where either says the same of everything,
        since no agreement beyond chance is then possible."""
        rows = (self.yes_yes + self.yes_no, self.no_yes + self.no_no)
        columns = (self.yes_yes + self.no_yes, self.yes_no + self.no_no)
        if 0 in rows or 0 in columns:
            return None
        from statsmodels.stats.inter_rater import cohens_kappa

        found = cohens_kappa([[self.yes_yes, self.yes_no], [self.no_yes, self.no_no]])
        # The interval is normal and may pass the ends of the scale.
        low, high = max(float(found.kappa_low), -1.0), min(float(found.kappa_upp), 1.0)
        assert math.isfinite(low) and math.isfinite(high)
        return {"value": float(found.kappa), "low": low, "high": high}

    def document(self) -> dict[str, Any]:
        """The counts, the share agreed on and kappa."""
        return {
            "yes_yes": self.yes_yes, "yes_no": self.yes_no, "no_yes": self.no_yes, "no_no": self.no_no,
            "n": self.n, "agreed": self.agreed.document(), "kappa": self.kappa(),
        }  # fmt: skip


def agreement(one: Sequence[bool], other: Sequence[bool]) -> Agreement:
    """Compare two judges on the same answers in the same order."""
    pairs = list(zip(one, other, strict=True))
    return Agreement(*(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))))
