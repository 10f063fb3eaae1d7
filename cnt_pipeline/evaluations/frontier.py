"""The frontier: recovery and its price against parameters moved, on selection prompts, for rankings and controls.

Every series walks the budgets from the middle one outwards and stops where going on would say nothing: upwards after
two budgets that recover everything, downwards after two that recover next to nothing. Then budgets are added between
the two where it comes to recover what a transplant should.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cnt_pipeline.evaluations.needed import CARRIED, write_needed
from cnt_pipeline.evaluations.schema import FRONTIER, FRONTIER_SAMPLES, FRONTIER_SCHEMA, WORTH_ASKING
from cnt_pipeline.measures.intervals import Estimate, bootstrap_mean, interval_over_draws, mean_interval
from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Effect
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.judge import Judge, Outcome

_NOTHING = 0.02
_FLAT = 2


@dataclass(frozen=True)
class Chosen:
    """The study's own transplant: its neurons, what the search found of them, and how they were selected.

    `outcome.asked` is the number of its samples among the judge's; None where only the search asked it.
    """

    neurons: Indices
    outcome: Outcome
    selection: str
    effect: str
    eta: float | None
    lookalike_weight: float | None


@dataclass(frozen=True)
class Settings:
    """What is drawn: ascending shares of all parameters, how many more are added where a series comes to carry the
    function, amplitudes, and how many draws of random neurons.

    Controls are also drawn at the transplant's own amplitude: plain copies would be no match for an amplified one.
    """

    budgets: tuple[float, ...]
    closer: int
    etas: tuple[float, ...]
    control_etas: tuple[float, ...]
    random_seeds: int
    seed: int


@dataclass(frozen=True)
class Line:
    """One series: `draws` gives the neurons of every draw at a budget of so many parameters."""

    series: str
    eta: float
    draws: Callable[[int], Sequence[Indices]]
    effect: str | None = None
    lookalike_weight: float | None = None


@dataclass
class Frontier:
    """Asks the judge about each set of neurons and amplitude once; `rows` are those of `frontier.parquet`."""

    judge: Judge
    space: Space
    seed: int
    report: Report = silent
    rows: list[dict[str, Any]] = field(default_factory=list)
    _asked: dict[tuple[float, bytes], Outcome] = field(default_factory=dict)

    def transplant(self, chosen: Chosen) -> None:
        """The study's own selection: one point."""
        self._row(
            chosen.neurons, chosen.outcome, series="transplant", effect=chosen.effect,
            selection=chosen.selection, eta=chosen.eta, lookalike_weight=chosen.lookalike_weight,
        )  # fmt: skip

    def whole_donor(self) -> None:
        """The donor itself, by what it said."""
        row = self._row(np.arange(len(self.space.sizes)), self.judge.baselines.donor, series="whole_donor")
        row |= {"parameters": self.space.total_parameters, "share": 1.0}

    def draw(self, line: Line, budgets: Sequence[float], closer: int) -> None:
        """A series, from the middle budget outwards; then `closer` more budgets where it comes to carry the function,
        each halving (by the logarithm) the step in which it reaches `CARRIED`."""
        middle = len(budgets) // 2
        found: dict[float, float] = {}
        for budget in budgets[middle:]:
            found[budget] = self._points(line, budget)
            if len(found) >= _FLAT and all(recovery >= 1 for recovery in list(found.values())[-_FLAT:]):
                break
        for budget in budgets[:middle][::-1]:
            lowest = [found[drawn] for drawn in sorted(found)[:_FLAT]]
            if len(lowest) == _FLAT and all(recovery <= _NOTHING for recovery in lowest):
                break
            found[budget] = self._points(line, budget)
        for _ in range(closer):
            drawn = sorted(found)
            upper = next((place for place, budget in enumerate(drawn) if found[budget] >= CARRIED), 0)
            if upper:
                between = math.sqrt(drawn[upper - 1] * drawn[upper])
                found[between] = self._points(line, between)

    def _points(self, line: Line, budget: float) -> float:
        """Draw one budget of a series; returns the recovery of the row that stands for it."""
        draws = line.draws(round(budget * self.space.total_parameters))
        asked = [self._ask(neurons, line.eta) for neurons in draws]
        about: dict[str, Any] = {
            "series": line.series,
            "effect": line.effect,
            "selection": None if line.effect is None else "top",
            "eta": line.eta,
            "lookalike_weight": line.lookalike_weight,
        }
        if len(draws) == 1:
            return float(self._row(draws[0], asked[0], **about)["recovery"])
        for variant, (neurons, outcome) in enumerate(zip(draws, asked, strict=True)):
            self._row(neurons, outcome, **about, variant=variant)
        return float(self._row(draws[0], _mean(asked), self._together(asked), **about)["recovery"])

    def _ask(self, neurons: Indices, eta: float) -> Outcome:
        key = (eta, np.sort(neurons).tobytes())
        if key not in self._asked:
            gates = self.space.gates(neurons, eta, device_of(self.judge.swap.model))
            self._asked[key] = self.judge.outcome(gates, enough=WORTH_ASKING)
            self.report("frontier: sets of neurons asked", len(self._asked), 0)
        return self._asked[key]

    def _estimate(self, values: Sequence[float]) -> Estimate:
        return (mean_interval if METRICS[self.judge.metric].share else bootstrap_mean)(values, self.seed)

    def _together(self, asked: Sequence[Outcome]) -> Estimate:
        """The interval over draws as well as prompts."""
        estimates = [self._estimate(outcome.values) for outcome in asked]
        return interval_over_draws([outcome.values for outcome in asked], estimates, self.seed)

    def _row(
        self, neurons: Indices, outcome: Outcome, estimate: Estimate | None = None, **about: Any
    ) -> dict[str, Any]:
        estimate = estimate or self._estimate(outcome.values)
        baselines = self.judge.baselines
        bounds = sorted(
            baselines.sign * (bound - baselines.target.function) / baselines.distance
            for bound in (estimate.low, estimate.high)
        )
        parameters = self.space.parameters(neurons)
        row = {
            **dict.fromkeys(FRONTIER_SCHEMA.names),
            **about,
            "asked": outcome.asked,
            "neurons": len(neurons),
            "parameters": parameters,
            "share": parameters / self.space.total_parameters,
            "function": outcome.function,
            "recovery": baselines.recovery(outcome),
            "low": bounds[0],
            "high": bounds[1],
            "misfire": outcome.misfire,
            "utility": outcome.utility,
            "coherence": outcome.coherence,
        }
        self.rows.append(row)
        return row


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Means over draws; what was not asked of every draw is not known of the mean."""
    function = sum(outcome.function for outcome in outcomes) / len(outcomes)
    further: dict[str, Any] = {}
    for name in ("misfire", "utility", "coherence"):
        values = [value for outcome in outcomes if (value := getattr(outcome, name)) is not None]
        further[name] = sum(values) / len(values) if len(values) == len(outcomes) else None
    return Outcome(function, **further)


def write_frontier(
    judge: Judge,
    space: Space,
    chosen: Chosen,
    orders: Mapping[Effect, Mapping[float, Indices]],
    largest: Indices,
    settings: Settings,
    folder: Path,
    report: Report = silent,
) -> Mapping[str, Any]:
    """Write `frontier.parquet`, `frontier_samples.parquet` and `frontier.json`; returns the last.

    `orders` holds, for every effect, the neurons from best to worst by look-alike weight; the first effect's first
    order is what the random neurons are matched to, layer by layer and family by family.
    """
    frontier = Frontier(judge, space, settings.seed, report)
    frontier.transplant(chosen)
    matched = next(iter(next(iter(orders.values())).values()))
    for line in _lines(space, orders, matched, largest, settings):
        frontier.draw(line, settings.budgets, settings.closer)
    frontier.whole_donor()
    rows = sorted(frontier.rows, key=_place(frontier.rows))
    table = pa.Table.from_pylist(rows, schema=FRONTIER_SCHEMA)
    write_parquet(table, folder / FRONTIER)
    judge.samples.write(folder / FRONTIER_SAMPLES)
    return write_needed(table.to_pylist(), folder)


def _lines(
    space: Space,
    orders: Mapping[Effect, Mapping[float, Indices]],
    matched: Indices,
    largest: Indices,
    settings: Settings,
) -> list[Line]:
    def top(order: Indices) -> Callable[[int], Sequence[Indices]]:
        return lambda parameters: [space.top_within(order, parameters)]

    def random(parameters: int) -> Sequence[Indices]:
        like = space.top_within(matched, parameters)
        return [space.random_like(like, settings.seed + number) for number in range(settings.random_seeds)]

    lines = []
    for eta in settings.etas:
        for effect, by_weight in orders.items():
            for weight, order in by_weight.items():
                lines.append(Line("effect", eta, top(order), effect, weight))
    for eta in settings.control_etas:
        lines += [Line("random", eta, random), Line("largest_delta", eta, top(largest))]
    return lines


def _place(rows: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], tuple[int, float, int]]:
    """Sort key: series in the order drawn, budgets ascending, the row that stands for its draws behind them."""

    def name(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return row["series"], row["effect"], row["eta"], row["lookalike_weight"]

    drawn = {key: place for place, key in enumerate(dict.fromkeys(name(row) for row in rows))}

    def key(row: Mapping[str, Any]) -> tuple[int, float, int]:
        variant = row["variant"]
        return drawn[name(row)], row["share"], len(rows) if variant is None else int(variant)

    return key
