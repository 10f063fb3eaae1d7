"""`mask` [I]: one gate per unit, learned with frozen weights under a rising price; the logits are the order.

    g = sigmoid(2 l),  minimise  L_f + NLL(y_T | P_u and P_n) + price(t) * sum(g * parameters) / all

`L_f` is NLL(y_D | P_f), or by default the square of `-log P(y_D rather than y_T | P_f)`, which asks for the function
and not for the donor's words, and minds the prompts without it most: 6 % fewer parameters on the packaged pair.

The price rises linearly. What a set is worth shows only with hard gates on prompts that it was not learned on, so
the open gates (`l > 0`) are judged now and then on the way, with amplitude 1 on the open and 0 elsewhere. The logits
of the last time that they held, and of the times after it, are the orders along which `bisect` goes on.
"""

from collections.abc import Sequence

import numpy as np
import torch

from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.transplants.select.layout import CandidateGates
from cnt_pipeline.transplants.select.learn import Curve, GateTrainer, Term
from cnt_pipeline.transplants.select.search import THOROUGH, Found, Search
from cnt_pipeline.transplants.select.settings import LearnSettings
from cnt_pipeline.transplants.select.units import Order

_LOOKS = 24
"""How often the open gates are judged on the way."""
_PATIENCE = 5
"""Judgements in a row that may fail, once one held, before the training ends."""


def mask(
    search: Search, swap: GatedSwap, terms: Sequence[Term], settings: LearnSettings, seed: int, batch_size: int
) -> tuple[Found, Curve]:
    """Learn an order over the candidates of the search's first order, then bisect along it with hard gates."""
    weight, order = next(iter(search.orders.items()))
    space = search.space
    candidates = order.within(space, round(settings.candidates * space.total_parameters))
    device = device_of(swap.model)
    share = torch.from_numpy(candidates.sums(space.sizes) / space.total_parameters).float().to(device)
    trainer = GateTrainer(
        swap,
        terms,
        CandidateGates(swap, space, candidates),
        lambda logits: torch.sigmoid(2 * logits),
        torch.full((len(candidates),), settings.start, device=device),
        rate=settings.rate,
        seed=seed,
        batch_size=batch_size,
        price=lambda gates, progress: settings.price * progress * (gates * share).sum(),
        report=search.report,
        what="learning a mask",
    )
    eta = min(search.method.eta)
    looks: list[tuple[bool, Order]] = []
    for part in np.array_split(np.arange(settings.steps), min(_LOOKS, settings.steps)):
        trainer.train(len(part), int(part[0]), settings.steps)
        logits = trainer.free.detach().cpu().numpy()
        now = candidates.sorted_by(logits)
        opened = int((logits > 0).sum())
        looks.append((bool(opened) and search.attempt("mask", now.first(opened), eta, weight).holds, now))
        held = [number for number, (holds, _) in enumerate(looks) if holds]
        if held and len(looks) - held[-1] > _PATIENCE:
            break
    search.care = THOROUGH
    # The units that were no candidates come last, so that the search can reach every unit.
    rest = order.pick(np.arange(len(candidates), len(order)))
    learned = [now for _, now in looks[held[-1] :]] if held else [looks[-1][1]]
    return search.bisect([(weight, now.followed_by(rest)) for now in learned]), trainer.curve
