"""Search for the smallest top of a ranking that carries the function within the study's limits.

For each amplitude and look-alike weight: double the budget from 0.01 % of all parameters until it holds, then
bisect. The smallest set found is thinned from its low end in groups that halve (methods section 1, `bisect` [I]).
All counts are of units (see `units`). `refine`, `mask` and `prune` start from this search or end in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from cnt_pipeline.measures.metrics import ROUNDING
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.study.schema import Accept, Method
from cnt_pipeline.transplants.select.candidates import Floats, Indices, Space
from cnt_pipeline.transplants.select.judge import Judge, Outcome
from cnt_pipeline.transplants.select.units import Order

_FIRST_SHARE = 1e-4


@dataclass(frozen=True)
class Care:
    """How far a search goes for a smaller set.

    `tolerance`: how far a bisection may end above the largest set that it saw fail. `groups`: into how many groups the
    lower half of the best set is divided to drop them one by one, round by round.
    """

    tolerance: float
    groups: tuple[int, ...]


QUICK = Care(1.05, (4, 8))
THOROUGH = Care(1.01, (4, 8, 16, 32))
"""For rules whose sets cost more to find than to judge."""


@dataclass(frozen=True)
class Trial:
    """One candidate and what it did on the selection prompts; `holds` says whether it met every limit.

    `eta` is None where every neuron has an amplitude of its own.
    """

    phase: str
    lookalike_weight: float
    eta: float | None
    neurons: int
    parameters: int
    share: float
    outcome: Outcome
    recovery: float
    holds: bool


@dataclass(frozen=True)
class Found:
    """The chosen neurons (numbers in the `Space`, best first), their amplitudes and trial, and every trial made."""

    chosen: Indices
    amplitudes: Floats
    trial: Trial
    trials: tuple[Trial, ...]


class Search:
    """Asks the judge about each candidate (neurons and amplitude) once and remembers all of them."""

    def __init__(
        self,
        space: Space,
        orders: Mapping[float, Order],
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
        self.care = QUICK
        self.trials: list[Trial] = []
        self._tried: list[tuple[Order, float | Floats]] = []
        self._outcomes: dict[tuple[bytes, bytes], Outcome] = {}

    def bisect(self, orders: Sequence[tuple[float, Order]] = ()) -> Found:
        """The smallest set over (K, eta, lambda); without any that meets the limits, the best that was tried.

        `orders` are look-alike weights with orders to search instead of the search's own.
        """
        best: Trial | None = None
        for eta, (weight, order) in product(sorted(self.method.eta), orders or sorted(self.orders.items(), key=_first)):
            low, high = self._double(order, eta, weight, best)
            if high is None:
                continue
            self.narrow(order, low, high, eta, weight)
            best = self.best()
        if best is not None:
            self.thin(best)
        return self.found()

    def fixed(self) -> Found:
        """The set of a fixed size, by `count` or `fraction`, at the best amplitude and look-alike weight."""
        for eta, (weight, order) in product(sorted(self.method.eta), sorted(self.orders.items(), key=_first)):
            if self.method.selection == "top_k":
                chosen = order.first(self.method.count)
            else:
                assert self.method.fraction is not None
                chosen = order.within(self.space, round(self.method.fraction * self.space.total_parameters))
            self.attempt("fixed", chosen, eta, weight)
        return self.found()

    def narrow(self, order: Order, low: int, high: int, eta: float, weight: float) -> int:
        """Bisect between a number of units that fails and one that holds; returns the smallest that holds."""
        while high > max(low + 1, round(low * self.care.tolerance)):
            middle = round(np.sqrt(max(low, 1) * high)) if high > 2 * low else (low + high) // 2
            middle = min(max(middle, low + 1), high - 1)
            if self.attempt("bisect", order.first(middle), eta, weight).holds:
                high = middle
            else:
                low = middle
        return high

    def thin(self, best: Trial) -> Trial:
        """Drop groups from the low-ranked end of the best set while the criterion holds."""
        chosen, eta = self.asked(best)
        for groups in self.care.groups:
            size = max(len(chosen) // (2 * groups), 1)
            end = len(chosen)
            for _ in range(groups):
                if len(chosen) <= size or end < size:
                    break
                kept = chosen.without(end - size, end)
                end -= size
                assert isinstance(eta, float)
                if self._known(kept.numbers, eta) is not None:
                    continue
                trial = self.attempt("thin", kept, eta, best.lookalike_weight)
                if trial.holds:
                    chosen, best = kept, trial
        return best

    def attempt(self, phase: str, chosen: Order, amplitude: float | Floats, weight: float) -> Trial:
        """Judge these units at one amplitude, or at one for each of their neurons, and keep the trial."""
        outcome = self._known(chosen.numbers, amplitude)
        if outcome is None:
            gates = self.space.gates(chosen.numbers, amplitude, device_of(self.judge.swap.model))
            outcome = self.judge.outcome(gates, enough=self.method.aim)
            self._outcomes[_candidate(chosen.numbers, amplitude)] = outcome
        recovery = self.judge.baselines.recovery(outcome)
        parameters = self.space.parameters(chosen.numbers)
        trial = Trial(
            phase=phase,
            lookalike_weight=weight,
            eta=amplitude if isinstance(amplitude, float | int) else None,
            neurons=len(chosen.numbers),
            parameters=parameters,
            share=parameters / self.space.total_parameters,
            outcome=outcome,
            recovery=recovery,
            holds=recovery >= self.method.aim - ROUNDING and self.judge.baselines.harmless(outcome, self.accept),
        )
        self.trials.append(trial)
        self._tried.append((chosen, amplitude))
        self.report(f"searching: {len(chosen.numbers)} neurons, recovery {recovery:.2f}", len(self.trials), 0)
        return trial

    def best(self) -> Trial | None:
        """The trial with the fewest parameters among those that hold."""
        return min((t for t in self.trials if t.holds), key=lambda t: (t.parameters, -t.recovery), default=None)

    def asked(self, trial: Trial) -> tuple[Order, float | Floats]:
        """The units and amplitude that a trial was about."""
        return next(asked for asked, t in zip(self._tried, self.trials, strict=True) if t is trial)

    def found(self) -> Found:
        """The best trial; where none meets every limit, that of the furthest recovery, then of fewest parameters."""
        trial = self.best() or min(self.trials, key=lambda t: (-t.recovery, t.parameters))
        chosen, amplitude = self.asked(trial)
        amplitudes = np.broadcast_to(np.asarray(amplitude, dtype=np.float32), chosen.numbers.shape)
        return Found(chosen.numbers, amplitudes, trial, tuple(self.trials))

    def _double(self, order: Order, eta: float, weight: float, best: Trial | None) -> tuple[int, int | None]:
        """Largest count known to fail and smallest known to hold; none where nothing below `best` holds."""
        sizes = order.parameters(self.space)
        limit = len(order)
        if best is not None:
            limit = int(np.searchsorted(sizes, best.parameters / self.care.tolerance, side="right"))
            if limit < 1 or not self.attempt("improve", order.first(limit), eta, weight).holds:
                return 0, None
            return self._descend(order, eta, weight, limit)
        budget = _FIRST_SHARE * self.space.total_parameters
        failed = 0
        while True:
            count = min(max(int(np.searchsorted(sizes, budget, side="right")), 1), limit)
            if count > failed:
                if self.attempt("double", order.first(count), eta, weight).holds:
                    return failed, count
                failed = count
            if count == limit:
                return failed, None
            budget *= 2

    def _descend(self, order: Order, eta: float, weight: float, holding: int) -> tuple[int, int]:
        """Halve from a count that holds to one that fails."""
        while holding > 1:
            count = holding // 2
            if not self.attempt("halve", order.first(count), eta, weight).holds:
                return count, holding
            holding = count
        return 0, holding

    def _known(self, chosen: Indices, amplitude: float | Floats) -> Outcome | None:
        """What the judge said of these neurons at this amplitude, under whatever look-alike weight they came up."""
        return self._outcomes.get(_candidate(chosen, amplitude))


def _first(item: tuple[float, Order]) -> float:
    return item[0]


def _candidate(chosen: Indices, amplitude: float | Floats) -> tuple[bytes, bytes]:
    ranked = np.argsort(chosen, kind="stable")
    values = np.asarray(amplitude, dtype=np.float32)
    return chosen[ranked].tobytes(), (values[ranked] if values.ndim else values).tobytes()
