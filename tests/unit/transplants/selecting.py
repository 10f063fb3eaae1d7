"""A space of neurons without weights, and a judge that answers from a rule: what selection rules are tested on."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch

from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Accept, Method
from cnt_pipeline.transplants.select.candidates import Indices, Space
from cnt_pipeline.transplants.select.judge import Baselines, Outcome
from cnt_pipeline.transplants.select.search import Search
from cnt_pipeline.transplants.select.units import Order

TARGET = Outcome(0.0, 0.0, 0.9, 1.0)
DONOR = Outcome(1.0, 0.02, 0.9, 1.0)


def matrix(layer: int, family: str, neurons: int, width: int, bias: str | None = None) -> Matrix:
    return Matrix(
        layer=layer, family=family, tensor=f"{layer}.{family}.weight", module=f"{layer}.{family}", side="row", axis=0,
        positions=np.arange(neurons)[::-1].copy(), bias=bias, width=width,
    )  # fmt: skip


MATRICES = tuple(
    matrix(layer, family, neurons, width, f"{layer}.q.bias" if family == "q" else None)
    for layer in range(3)
    for family, neurons, width in (("q", 40, 10), ("down", 100, 25))
)
SPACE = Space.of(SimpleNamespace(matrices=MATRICES), 20_000)  # type: ignore[arg-type]
ALL = 3 * 140


class StubJudge:
    """Answers from a rule on (chosen neuron numbers, eta) and keeps what it was asked."""

    def __init__(self, rule: Callable[[set[int], float], Outcome], baselines: Baselines | None = None) -> None:
        self.rule = rule
        self.baselines = baselines or Baselines(TARGET, DONOR, 1)
        self.asked: list[tuple[float, frozenset[int]]] = []
        embeddings = torch.nn.Embedding(1, 1)
        self.swap = SimpleNamespace(model=SimpleNamespace(get_input_embeddings=lambda: embeddings))

    def outcome(self, gates: Mapping[tuple[int, str], torch.Tensor], enough: float | None = None) -> Outcome:
        """The rule's answer; amplitudes that differ from neuron to neuron count by their mean."""
        chosen = {
            SPACE.offsets[key] + int(n): float(gate[n])
            for key, gate in gates.items()
            for n in gate.nonzero().squeeze(1)
        }
        amplitudes = sorted(chosen.values())
        eta = amplitudes[0] if amplitudes[0] == amplitudes[-1] else sum(amplitudes) / len(amplitudes)
        self.asked.append((eta, frozenset(chosen)))
        outcome = self.rule(set(chosen), eta)
        if enough is not None and self.baselines.recovery(outcome) < enough:
            return Outcome(outcome.function)
        return outcome


def order(seed: int = 0) -> Indices:
    return np.random.default_rng(seed).permutation(ALL).astype(np.int64)


def search(
    judge: StubJudge, orders: Mapping[float, Indices] | None = None, accept: Accept | None = None, **method: Any
) -> Search:
    ranked = {weight: Order.of_neurons(numbers) for weight, numbers in (orders or {0.0: order()}).items()}
    return Search(SPACE, ranked, judge, Method(**method), accept or Accept())  # type: ignore[arg-type]


def reaching(needed: int, ranked: Indices, **fields: float) -> Callable[[set[int], float], Outcome]:
    """The function appears once the first `needed` neurons of a ranking are all swapped; others do nothing."""
    core = set(ranked[:needed].tolist())
    good = replace(DONOR, **fields)
    return lambda chosen, eta: good if core <= chosen else replace(good, function=0.4)


def ranking(folder: Path) -> Path:
    frames = [
        SPACE.frame(order(seed)).with_columns(
            pl.lit(weight).alias("lookalike_weight"),
            pl.Series("score", np.linspace(1, 0, ALL)),
            pl.Series("rank", np.arange(1, ALL + 1), dtype=pl.Int32),
        )
        for seed, weight in ((0, 0.0), (1, 0.5))
    ]
    write_parquet(pl.concat(frames).sample(fraction=1.0, shuffle=True, seed=4).to_arrow(), folder / "ranking.parquet")
    return folder / "ranking.parquet"
