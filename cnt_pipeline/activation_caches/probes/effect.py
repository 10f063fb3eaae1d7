"""First-order effects of swapping each neuron, at the target or averaged along the path to the donor.

Source: methods section 1 [I]; the average along a straight path is integrated gradients (Sundararajan et al., 2017),
here over the gates of the gated swap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cnt_pipeline.activation_caches.write import Values
from cnt_pipeline.models import teacher
from cnt_pipeline.models.gates import Effects, GatedSwap
from cnt_pipeline.models.teacher import Example


@dataclass(frozen=True)
class Objective:
    """A loss of one prompt: the weighted sum of the mean NLL per token of some answers to it."""

    terms: tuple[tuple[Example, float], ...]


def nodes(count: int) -> list[tuple[float, float]]:
    """Gauss-Legendre nodes of [0, 1] with their weights, which sum to 1."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return [(float(point + 1) / 2, float(weight) / 2) for point, weight in zip(points, weights, strict=True)]


AT_TARGET = [(0.0, 1.0)]
"""The one node of the `gradient` effect."""


class EffectProbe:
    """Effect `e_n = -sum_k w_k dL/dg_n` at all gates `alpha_k`, per prompt: positive where swapping lowers the loss."""

    def __init__(
        self,
        swap: GatedSwap,
        objectives: Sequence[Objective],
        path: Sequence[tuple[float, float]],
        batch_size: int,
    ) -> None:
        self.swap = swap
        self.objectives = objectives
        self.path = path
        self.batch_size = batch_size

    def __call__(self, members: Sequence[int]) -> Values:
        model = self.swap.model
        device = teacher.device_of(model)
        owners = [position for position, i in enumerate(members) for _ in self.objectives[i].terms]
        terms = [term for i in members for term in self.objectives[i].terms]
        examples = [example for example, _ in terms]
        weights = torch.tensor([weight for _, weight in terms])
        total = {(m.layer, m.family): torch.zeros(len(members), m.neurons) for m in self.swap.architecture.matrices}
        for alpha, share in self.path:
            with self.swap.uniform(alpha) as effects:
                for batch in teacher.batches(examples, self.batch_size, device, teacher.pad_of(model)):
                    into = torch.tensor([owners[i] for i in batch.members])
                    for key, gradient in _gradients(model, batch, weights[list(batch.members)], effects).items():
                        total[key].index_add_(0, into, gradient.cpu(), alpha=-share)
        return {key: values.numpy() for key, values in total.items()}


def batch_gradients(
    swap: GatedSwap, batch: teacher.Batch, weights: Tensor, alpha: float
) -> dict[tuple[int, str], Tensor]:
    """`dL/dg`, `[batch, neurons]` float32, of each example's weighted mean NLL at all gates `alpha`."""
    with swap.uniform(alpha) as effects:
        return _gradients(swap.model, batch, weights, effects)


def _gradients(
    model: nn.Module, batch: teacher.Batch, weights: Tensor, effects: Effects
) -> dict[tuple[int, str], Tensor]:
    """As `batch_gradients`, at the gates whose `effects` are given."""
    scale = _loss_scale(model)
    with torch.enable_grad(), teacher.differentiable_inputs(model):
        losses = teacher.per_example(teacher.token_nll(model, batch, share=False), batch)
        (losses * weights.to(losses.device)).sum().mul(scale).backward()  # type: ignore[no-untyped-call]
    found = {key: gradient / scale for key, gradient in effects.by_key.items()}
    effects.by_key.clear()
    return found


def _loss_scale(model: nn.Module) -> float:
    """A power of two that keeps small gradients of a float16 model above that format's underflow."""
    return 4096.0 if next(model.parameters()).dtype == torch.float16 else 1.0


@torch.inference_mode()
def path_change(swap: GatedSwap, objectives: Sequence[Objective], batch_size: int) -> tuple[float, float]:
    """Mean loss over the prompts with every gate at 0 and at 1."""
    terms = [term for objective in objectives for term in objective.terms]
    examples = [example for example, _ in terms]
    weights = [weight for _, weight in terms]
    losses = []
    for value in (0.0, 1.0):
        with swap.folded(swap.filled(value)):
            nll = teacher.answer_nll(swap.model, examples, batch_size)
        losses.append(sum(w * x for w, x in zip(weights, nll, strict=True)) / len(objectives))
    return losses[0], losses[1]
