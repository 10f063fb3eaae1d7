"""`refine` [I]: score again inside the set that was found, where every neuron has only its fellows to lean on.

The path effect of the first ranking swaps the whole model, so it credits neurons whose work others would have done.
Inside the surviving set the path runs from the target to that set alone: a neuron that the others make superfluous
scores low there and is dropped.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from cnt_pipeline.activation_caches.probes.effect import Objective
from cnt_pipeline.models import teacher
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.transplants.select.candidates import Floats, Indices, Space
from cnt_pipeline.transplants.select.search import THOROUGH, Found, Search
from cnt_pipeline.transplants.select.units import Order

KEPT = 0.7
"""Share of the set's parameters that each round keeps."""
_WORTH = 0.98
"""A round that leaves more than this share of the parameters is the last."""


class InsideEffects:
    """Scores of the neurons of a set, along the path from the target to the target with that set transplanted.

    Args:
        objectives: the losses of each prompt by objective (`transfer`, `misfire`, `keep`).
        path: quadrature nodes in [0, 1] with their weights.
        damage_weight: `mu` of the score `e - lambda f - mu max(u, 0)`, as in `neuron_rankings/sql/effect.sql`.
    """

    def __init__(
        self,
        swap: GatedSwap,
        space: Space,
        objectives: Mapping[str, Sequence[Objective]],
        path: Sequence[tuple[float, float]],
        damage_weight: float,
        batch_size: int,
        report: Report = silent,
    ) -> None:
        self.swap = swap
        self.space = space
        self.objectives = objectives
        self.path = path
        self.damage_weight = damage_weight
        self.batch_size = batch_size
        self.report = report

    def scores(self, chosen: Indices, eta: float, lookalike_weight: float) -> Floats:
        """Scores, `[neurons of the model]`, 0 outside the set: changes of the loss in nats."""
        score = self._effect("transfer", chosen, eta)
        if lookalike_weight:
            score -= lookalike_weight * self._effect("misfire", chosen, eta)
        if self.damage_weight:
            score -= self.damage_weight * np.maximum(-self._effect("keep", chosen, eta), 0)
        return score

    def _effect(self, objective: str, chosen: Indices, eta: float) -> Floats:
        """Mean over the prompts of `-sum_k w_k dL/da_n` with the set's gates at `a_k eta`."""
        model = self.swap.model
        direction = self.space.gates(chosen, eta, teacher.device_of(model))
        goals = self.objectives[objective]
        terms = [(example, weight / len(goals)) for goal in goals for example, weight in goal.terms]
        examples = [example for example, _ in terms]
        weights = torch.tensor([weight for _, weight in terms])
        total = np.zeros(len(self.space.sizes))
        for number, (alpha, share) in enumerate(self.path):
            with self.swap.along(direction, alpha) as effects:
                for batch in teacher.batches(
                    examples, self.batch_size, teacher.device_of(model), teacher.pad_of(model)
                ):
                    with torch.enable_grad(), teacher.differentiable_inputs(model):
                        losses = teacher.per_example(teacher.token_nll(model, batch, share=False), batch)
                        scale = weights[list(batch.members)].to(losses.device)
                        (losses * scale).sum().backward()  # type: ignore[no-untyped-call]
                    for key, gradient in effects.by_key.items():
                        begin = self.space.offsets[key]
                        added = gradient.sum(0, dtype=torch.float64).cpu().numpy()
                        total[begin : begin + len(added)] -= share * eta * added
            self.report(f"effects on {objective} inside {len(chosen)} neurons", number + 1, len(self.path))
        inside = np.zeros_like(total)
        inside[chosen] = total[chosen]
        return inside


def refine(search: Search, effects: InsideEffects) -> Found:
    """Start from what `bisect` finds and drop what scores least inside it, as long as the criterion holds.

    Each round keeps the best 70 % by the new scores, or where that fails what a bisection between 70 % and all finds;
    the last round is the one that gains next to nothing. The result never needs more parameters than `bisect`'s.
    """
    search.bisect()
    search.care = THOROUGH
    best = search.best()
    while best is not None:
        chosen, eta = search.asked(best)
        assert isinstance(eta, float)
        order = _reordered(chosen, effects.scores(chosen.numbers, eta, best.lookalike_weight))
        kept = order.within(search.space, round(KEPT * best.parameters))
        if len(kept) == len(order):
            break
        if not search.attempt("refine", kept, eta, best.lookalike_weight).holds:
            search.narrow(order, len(kept), len(order), eta, best.lookalike_weight)
        better = search.best()
        assert better is not None
        if better.parameters > _WORTH * best.parameters:
            search.thin(better)
            break
        best = better
    return search.found()


def _reordered(chosen: Order, scores: Floats) -> Order:
    return chosen.sorted_by(chosen.sums(scores))
