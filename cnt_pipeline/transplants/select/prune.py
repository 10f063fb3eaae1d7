"""`prune` [I]: few neurons with an amplitude each, found by tuning gates and dropping the least important by turns.

Beyond the paper: where a plain copy of few neurons carries too little of the function, an amplified one,
`W_T[n] + g_n (W_D[n] - W_T[n])` with `g_n` in [0, limit], can carry all of it. The gates are tuned on

    NLL(y_D | P_f) + NLL(y_T | P_u and P_n)

with every weight frozen. Cuts lie geometrically between the candidates and the budget; after the last one the gates
are tuned on.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cnt_pipeline.measures.metrics import ROUNDING
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.transplants.select.candidates import Floats, Indices, Space
from cnt_pipeline.transplants.select.layout import CandidateGates
from cnt_pipeline.transplants.select.learn import Curve, GateTrainer, Term
from cnt_pipeline.transplants.select.search import Found, Search
from cnt_pipeline.transplants.select.settings import LearnSettings
from cnt_pipeline.transplants.select.units import Order

SOFTER = (0.9, 0.8, 0.7, 0.6)
"""Factors on all amplitudes, tried in turn where the tuned ones do harm."""
STRONGER = (1.1, 1.25)
"""Factors tried where they reach too little of the function."""
_LAST = 0.4
"""Share of the steps that come after the last cut."""


def prune(
    search: Search,
    swap: GatedSwap,
    terms: Sequence[Term],
    scores: Floats,
    settings: LearnSettings,
    seed: int,
    batch_size: int,
) -> tuple[Found, Curve]:
    """Learn units and amplitudes within the budget, then judge them.

    Args:
        scores: the ranking's score of every neuron of the model, in nats.
    """
    weight, order = next(iter(search.orders.items()))
    space = search.space
    candidates = order.within(space, round(settings.candidates * space.total_parameters))
    worth = np.maximum(candidates.sums(scores), 0)
    trainer = GateTrainer(
        swap,
        terms,
        CandidateGates(swap, space, candidates),
        lambda gates: gates,
        torch.full((len(candidates),), settings.start, device=device_of(swap.model)),
        rate=settings.rate,
        seed=seed,
        batch_size=batch_size,
        bounds=(0.0, settings.limit),
        report=search.report,
        what="learning amplitudes",
    )
    kept = np.arange(len(candidates))
    done = 0
    for budget, until in _schedule(candidates, space, settings):
        trainer.train(until - done, done, settings.steps)
        done = until
        gates = trainer.values.cpu().numpy().astype(np.float64)
        importance = gates * worth if settings.importance == "score" else trainer.saliency
        kept = _most_important(candidates, kept, importance, space, budget)
        alive = torch.zeros(len(candidates), dtype=torch.bool)
        alive[torch.from_numpy(kept)] = True
        trainer.keep(alive.to(trainer.free.device), CandidateGates(swap, space, candidates, kept))
    trainer.train(settings.steps - done, done, settings.steps)
    gates = trainer.values.cpu().numpy()
    kept = kept[gates[kept] > 0]
    chosen = candidates.pick(kept)
    _judge(search, chosen, gates[kept][chosen.owner], weight)
    return search.found(), trainer.curve


def _schedule(candidates: Order, space: Space, settings: LearnSettings) -> list[tuple[int, int]]:
    """For every cut, the parameters that it leaves and the step before which it comes."""
    whole = space.parameters(candidates.numbers)
    goal = min(round(settings.budget * space.total_parameters), whole)
    parts = np.arange(1, settings.cuts + 1) / settings.cuts
    budgets = np.round(whole * (goal / whole) ** parts).astype(int)
    steps = np.round((1 - _LAST) * settings.steps * parts).astype(int)
    return [(int(budget), int(step)) for budget, step in zip(budgets, steps, strict=True)]


def _most_important(candidates: Order, kept: Indices, importance: Floats, space: Space, budget: int) -> Indices:
    """The units that stay: the most important of those still there that fit into the budget."""
    ranked = kept[np.argsort(-importance[kept], kind="stable")]
    sizes = np.cumsum(candidates.sums(space.sizes)[ranked])
    return np.sort(ranked[: max(int(np.searchsorted(sizes, budget, side="right")), 1)])


def _judge(search: Search, chosen: Order, amplitudes: Floats, weight: float) -> None:
    """Try the tuned amplitudes, then all of them softer where they do harm, stronger where they reach too little."""
    tuned = search.attempt("prune", chosen, amplitudes, weight)
    if tuned.holds:
        return
    enough = tuned.recovery >= search.method.aim - ROUNDING
    for factor in SOFTER if enough else STRONGER:
        trial = search.attempt(f"scale {factor:g}", chosen, (amplitudes * factor).astype(np.float32), weight)
        if trial.holds or (trial.recovery < search.method.aim - ROUNDING) == enough:
            return
