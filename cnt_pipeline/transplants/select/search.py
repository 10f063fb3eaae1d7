"""Search for the smallest top of a ranking that carries the function within the study's limits.

For each amplitude and look-alike weight: double the budget from 0.01 % of all parameters until the criterion
holds, then
bisect. The smallest set found is thinned from its low-ranked end in groups that halve (methods section 1,
`bisect` [I]).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.study.schema import Accept, Method
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.judge import ROUNDING, Judge, Outcome

_FIRST_SHARE = 1e-4
_TOLERANCE = 1.05
_THINNING_GROUPS = (4, 8)


@dataclass(frozen=True)
class Trial:
    """One candidate and what it did on the selection prompts; `holds` says whether it met every limit."""

    phase: str
    lookalike_weight: float
    eta: float
    neurons: int
    parameters: int
    share: float
    outcome: Outcome
    recovery: float
    holds: bool


@dataclass(frozen=True)
class Found:
    """The chosen neurons (numbers in the `Space`, best first) with their trial, and every trial on the way."""

    chosen: Indices
    trial: Trial
    trials: tuple[Trial, ...]


class Search:
    """Asks the judge about each candidate (neurons and amplitude) once and remembers all of them."""

    def __init__(
        self,
        space: Space,
        orders: Mapping[float, Indices],
        judge: Judge,
        method: Method,
        accept: Accept,
        report: Report = silent,
    ) -> None:
        self.space = space
        self.orders = orders
        self.judge = judge
        self.method = method
        self.accept = accept
        self.report = report
        self.trials: list[Trial] = []
        self._chosen: list[Indices] = []
        self._outcomes: dict[tuple[float, bytes], Outcome] = {}

    def bisect(self) -> Found:
        """The smallest set over (K, eta, lambda); without any that meets the limits, the best that was tried."""
        best: Trial | None = None
        for eta, weight in self._settings():
            order = self.orders[weight]
            low, high = self._double(order, eta, weight, best)
            if high is None:
                continue
            low_count, count = low, high
            while count > max(low_count + 1, round(low_count * _TOLERANCE)):
                middle = (
                    round(np.sqrt(max(low_count, 1) * count)) if count > 2 * low_count else (low_count + count) // 2
                )
                middle = min(max(middle, low_count + 1), count - 1)
                if self._try("bisect", order[:middle], eta, weight).holds:
                    count = middle
                else:
                    low_count = middle
            best = self._best()
        if best is None:
            return self._found(self._closest())
        return self._thin(best)

    def fixed(self) -> Found:
        """The set of a fixed size, by `count` or `fraction`, at the best amplitude and look-alike weight."""
        for eta, weight in self._settings():
            order = self.orders[weight]
            if self.method.selection == "top_k":
                chosen = order[: self.method.count]
            else:
                assert self.method.fraction is not None
                chosen = self.space.top_within(order, round(self.method.fraction * self.space.total_parameters))
            self._try("fixed", chosen, eta, weight)
        return self._found(self._closest())

    def _settings(self) -> Iterator[tuple[float, float]]:
        for eta in sorted(self.method.eta):
            for weight in sorted(self.method.lookalike_weight):
                yield eta, weight

    def _double(self, order: Indices, eta: float, weight: float, best: Trial | None) -> tuple[int, int | None]:
        """Largest count known to fail and smallest known to hold; none where nothing below `best` holds."""
        sizes = np.cumsum(self.space.sizes[order])
        limit = len(order)
        if best is not None:
            limit = int(np.searchsorted(sizes, best.parameters / _TOLERANCE, side="right"))
            if limit < 1 or not self._try("improve", order[:limit], eta, weight).holds:
                return 0, None
            return self._descend(order, eta, weight, limit)
        budget = _FIRST_SHARE * self.space.total_parameters
        failed = 0
        while True:
            count = min(max(int(np.searchsorted(sizes, budget, side="right")), 1), limit)
            if count > failed:
                if self._try("double", order[:count], eta, weight).holds:
                    return failed, count
                failed = count
            if count == limit:
                return failed, None
            budget *= 2

    def _descend(self, order: Indices, eta: float, weight: float, holding: int) -> tuple[int, int]:
        """Halve from a count that holds to one that fails."""
        while holding > 1:
            count = holding // 2
            if not self._try("halve", order[:count], eta, weight).holds:
                return count, holding
            holding = count
        return 0, holding

    def _thin(self, best: Trial) -> Found:
        """Drop groups from the low-ranked end of the best set while the criterion holds."""
        chosen = self._chosen_by(best)
        for groups in _THINNING_GROUPS:
            size = max(len(chosen) // (2 * groups), 1)
            end = len(chosen)
            for _ in range(groups):
                if len(chosen) <= size or end < size:
                    break
                kept = np.delete(chosen, np.s_[end - size : end])
                end -= size
                if self._known(kept, best.eta) is not None:
                    continue
                trial = self._try("thin", kept, best.eta, best.lookalike_weight)
                if trial.holds:
                    chosen, best = kept, trial
        return self._found(best)

    def _try(self, phase: str, chosen: Indices, eta: float, weight: float) -> Trial:
        outcome = self._known(chosen, eta)
        if outcome is None:
            gates = self.space.gates(chosen, eta, device_of(self.judge.swap.model))
            outcome = self.judge.outcome(gates, enough=self.method.aim)
            self._outcomes[_candidate(chosen, eta)] = outcome
        recovery = self.judge.baselines.recovery(outcome)
        parameters = self.space.parameters(chosen)
        trial = Trial(
            phase=phase,
            lookalike_weight=weight,
            eta=eta,
            neurons=len(chosen),
            parameters=parameters,
            share=parameters / self.space.total_parameters,
            outcome=outcome,
            recovery=recovery,
            holds=recovery >= self.method.aim - ROUNDING and self.judge.baselines.harmless(outcome, self.accept),
        )
        self.trials.append(trial)
        self._chosen.append(chosen)
        self.report(f"searching: {len(chosen)} neurons, recovery {recovery:.2f}", len(self.trials), 0)
        return trial

    def _known(self, chosen: Indices, eta: float) -> Outcome | None:
        """What the judge said of these neurons at this amplitude, under whatever look-alike weight they came up."""
        return self._outcomes.get(_candidate(chosen, eta))

    def _best(self) -> Trial | None:
        return min((t for t in self.trials if t.holds), key=lambda t: (t.parameters, -t.recovery), default=None)

    def _closest(self) -> Trial:
        """The trial to show where none meets every limit: the furthest recovery, then the fewest parameters."""
        return self._best() or min(self.trials, key=lambda t: (-t.recovery, t.parameters))

    def _chosen_by(self, trial: Trial) -> Indices:
        return next(c for c, t in zip(self._chosen, self.trials, strict=True) if t is trial)

    def _found(self, trial: Trial) -> Found:
        return Found(self._chosen_by(trial), trial, tuple(self.trials))


def _candidate(chosen: Indices, eta: float) -> tuple[float, bytes]:
    return eta, np.sort(chosen).tobytes()
