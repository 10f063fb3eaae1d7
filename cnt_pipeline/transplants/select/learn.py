"""Learn gates by gradient while every weight stays frozen: the loop that `mask` and `prune` share."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cnt_pipeline.models import teacher
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.transplants.select.candidates import Floats

Open = Callable[[Tensor], AbstractContextManager[None]]
"""Runs the model with the gates that a flat vector holds, differentiably."""


@dataclass(frozen=True)
class Term:
    """One part of the loss, `weight` times its mean over `take` prompts a step.

    Without `against` it is the mean NLL per token of each prompt's answer in `examples`. With `against`, another answer
    to each prompt, it is `-log P(the first rather than the other)`, P the odds of the two whole answers: it rests where
    the model already prefers the first, whatever the words; `likelihood` times the first's mean NLL per token is added.
    `squared` squares it: the prompts that are furthest from preferring the first then count most, and a set that must
    win nearly all of them gets smaller than one that wins most of them by far.
    """

    name: str
    examples: tuple[Example, ...]
    weight: float
    take: int
    against: tuple[Example, ...] = ()
    likelihood: float = 0.0
    squared: bool = False

    def answers(self, prompt: int) -> tuple[Example, ...]:
        """The answers to one prompt that the loss compares."""
        return (self.examples[prompt], self.against[prompt]) if self.against else (self.examples[prompt],)


@dataclass
class Curve:
    """What the training recorded at every step: `rows` of step, loss of each term, mean gate, units and parameters
    left."""

    rows: list[dict[str, float]] = field(default_factory=list)


class Minibatches:
    """Endless minibatches of a term in seeded order: every example once before any comes again."""

    def __init__(self, term: Term, generator: np.random.Generator) -> None:
        self.term = term
        self.generator = generator
        self._waiting: list[int] = []

    def __call__(self) -> list[int]:
        """The next `take` prompts of the term, or all where there are fewer."""
        chosen: list[int] = []
        for _ in range(min(self.term.take, len(self.term.examples))):
            if not self._waiting:
                self._waiting = self.generator.permutation(len(self.term.examples)).tolist()
            chosen.append(self._waiting.pop())
        return chosen


class GateTrainer:
    """Adam on a flat vector of free numbers from which the gates are made.

    Args:
        swap: target and donor; no weight of theirs gets a gradient.
        terms: the parts of the loss, each a share of every minibatch.
        opened: makes the flat vector of gates the model's.
        gates: from the free numbers to the gates, differentiably.
        free: the free numbers at the start, `[gates]`; the trainer changes a copy of its own.
        rate: Adam's step.
        seed: draws the minibatches.
        batch_size: examples a forward pass; a larger minibatch is taken in parts, which changes nothing but rounding.
        price: what the gates cost beside the loss, by step in [0, 1] of the whole training; 0 by default.
        bounds: smallest and largest free number.
    """

    def __init__(
        self,
        swap: GatedSwap,
        terms: Sequence[Term],
        opened: Open,
        gates: Callable[[Tensor], Tensor],
        free: Tensor,
        *,
        rate: float,
        seed: int,
        batch_size: int,
        price: Callable[[Tensor, float], Tensor] | None = None,
        bounds: tuple[float, float] | None = None,
        report: Report = silent,
        what: str = "learning gates",
    ) -> None:
        self.swap = swap
        self.terms = tuple(term for term in terms if term.examples and term.take)
        self.opened = opened
        self.gates = gates
        self.free = free.detach().clone().requires_grad_(True)
        self.batch_size = batch_size
        self.price = price
        self.bounds = bounds
        self.report = report
        self.what = what
        self.curve = Curve()
        self.alive = torch.ones_like(self.free, dtype=torch.bool)
        self._squares = torch.zeros_like(self.free, dtype=torch.float64)
        self._steps = 0
        self._optimizer = torch.optim.Adam([self.free], lr=rate)
        generators = np.random.default_rng(seed).spawn(len(self.terms))
        self._draw = [Minibatches(term, generator) for term, generator in zip(self.terms, generators, strict=True)]

    @property
    def values(self) -> Tensor:
        """The gates as they stand, `[gates]`; dropped ones at 0."""
        with torch.no_grad():
            return self.gates(self.free) * self.alive

    @property
    def saliency(self) -> Floats:
        """Root mean square of `g dL/dg` since the last cut, `[gates]`: what the loss feels of each gate."""
        mean: Floats = (self._squares / max(self._steps, 1)).sqrt().cpu().numpy()
        return mean

    def keep(self, alive: Tensor, opened: Open) -> None:
        """Keep only the gates in `alive` (`[gates]` bool): the others are 0 from now on; `opened` runs without them."""
        self.alive = self.alive & alive
        self.opened = opened
        self._squares.zero_()
        self._steps = 0

    def train(self, steps: int, begin: int, total: int) -> None:
        """Take `steps` steps, the first of which is number `begin` of `total`."""
        for step in range(begin, begin + steps):
            losses = self._step(step / max(total - 1, 1))
            gates = self.values
            alive = int(self.alive.sum())
            self.curve.rows.append(
                {"step": step, **losses, "mean_gate": float(gates.sum() / max(alive, 1)), "units": alive}
            )
            shown = ", ".join(f"{name} {value:.2f}" for name, value in losses.items())
            self.report(f"{self.what}: {shown}, {alive} left", step + 1, total)

    def _step(self, progress: float) -> Mapping[str, float]:
        self._optimizer.zero_grad()
        drawn = [(draw.term, prompt) for draw in self._draw for prompt in draw()]
        counts = Counter(term.name for term, _ in drawn)
        losses = dict.fromkeys(counts, 0.0)
        for part in _parts(drawn, self.batch_size):
            with torch.enable_grad(), self.opened(self.gates(self.free) * self.alive):
                values = _values(self.swap.model, part, share=not self.swap.checkpointing)
                shares = values.new_tensor([term.weight / counts[term.name] for term, _ in part])
                (values * shares).sum().backward()  # type: ignore[no-untyped-call]
            for (term, _), value in zip(part, values.tolist(), strict=True):
                losses[term.name] += value / counts[term.name]
        assert self.free.grad is not None
        with torch.no_grad():
            self._squares += (self.values * self.free.grad).double().square()
            self._steps += 1
        if self.price is not None:
            self.price(self.gates(self.free), progress).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self.bounds is not None:
            with torch.no_grad():
                self.free.clamp_(*self.bounds)
        return losses


def _parts(drawn: list[tuple[Term, int]], batch_size: int) -> Iterator[list[tuple[Term, int]]]:
    """The drawn prompts in parts of at most `batch_size` answers (at least one prompt), the longest first."""
    longest = sorted(drawn, key=lambda one: -max(len(answer.tokens) for answer in one[0].answers(one[1])))
    part: list[tuple[Term, int]] = []
    held = 0
    for term, prompt in longest:
        count = len(term.answers(prompt))
        if part and held + count > batch_size:
            yield part
            part, held = [], 0
        part.append((term, prompt))
        held += count
    if part:
        yield part


def _values(model: torch.nn.Module, part: list[tuple[Term, int]], share: bool) -> Tensor:
    """The loss of each prompt, `[prompts]`."""
    answers = [term.answers(prompt) for term, prompt in part]
    examples = [answer for group in answers for answer in group]
    batch = teacher.make_batch(examples, range(len(examples)), teacher.device_of(model), teacher.pad_of(model))
    tokens = teacher.token_nll(model, batch, share)
    means, sums = teacher.per_example(tokens, batch), teacher.per_example(tokens, batch, mean=False)
    values = []
    first = 0
    for (term, _), group in zip(part, answers, strict=True):
        value = means[first]
        if term.against:
            odds = torch.nn.functional.softplus(sums[first] - sums[first + 1])
            value = (odds.square() if term.squared else odds) + term.likelihood * value
        values.append(value)
        first += len(group)
    return torch.stack(values)
