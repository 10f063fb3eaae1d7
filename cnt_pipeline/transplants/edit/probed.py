"""Neurons that a logistic probe on each layer weighs most (NeST, arXiv 2602.16835, grade B of methods.md).

With far more neurons than prompts, the best probe is a weighted sum of the prompts' activations. So the fit needs only
the prompts' inner products, and memory holds one family of activations at a time.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.copying import copied, matrices_of, within_budget
from cnt_pipeline.transplants.edit.neurons import SAFETY, UTILITY, Scored, standardised
from cnt_pipeline.transplants.edit.prompt_rows import read_prompt_rows
from cnt_pipeline.transplants.edit.rows.neurons import NestOptions
from cnt_pipeline.transplants.edit.source import Edits, Source

Array = npt.NDArray[np.float64]


def nest(source: Source, options: NestOptions, seed: int) -> Edits:
    """Neurons of the donor whose standardised probe weight exceeds the threshold, copied into the target."""
    scores = {
        key: np.where(values > options.threshold, values, -np.inf)
        for key, values in standardised_weights(source, options).items()
    }
    return copied(source, within_budget(source, scores, options.budget))


def standardised_weights(source: Source, options: NestOptions) -> Scored:
    """Probe weight of every neuron, standardised over the probed neurons of its layer.

    Raises:
        InputError: families were measured on different prompts.
    """
    families = list(dict.fromkeys(matrix.family for matrix in matrices_of(source, options.families)))
    products: dict[int, Array] = {}
    prompts: tuple[tuple[str, str], ...] | None = None
    for read, layers in (_features(source, family) for family in families):
        if prompts is not None and read != prompts:
            raise InputError("families were measured on different prompts: run the activation probe of the donor again")
        prompts = read
        for layer, features in layers:
            products[layer] = products.get(layer, 0.0) + features @ features.T
    assert prompts is not None, "every architecture has families"
    labels = np.array([1.0 if kind == SAFETY else -1.0 for kind, _ in prompts])
    sums = {layer: fit_probe(product, labels, options.penalty) for layer, product in products.items()}
    weights = {
        (layer, family): features.T @ sums[layer]
        for family in families
        for layer, features in _features(source, family)[1]
    }
    scores: Scored = {}
    for layer in sums:
        keys = [key for key in weights if key[0] == layer]
        whole = standardised(np.concatenate([weights[key] for key in keys]))
        ends = np.cumsum([len(weights[key]) for key in keys])[:-1]
        scores.update(zip(keys, np.split(whole, ends), strict=True))
    return scores


def _features(source: Source, family: str) -> tuple[tuple[tuple[str, str], ...], Iterator[tuple[int, Array]]]:
    """Prompts, and by layer their activations `[prompts, neurons]` with mean 0 and variance 1 (0 where constant)."""
    rows = read_prompt_rows(source.probe("activation", "donor"), f"{family}.mean", [SAFETY, UTILITY])
    return rows.prompts, ((layer, _scaled(values.astype(np.float64))) for layer, values in rows.layers.items())


def _scaled(values: Array) -> Array:
    constant = values.min(0) == values.max(0)
    values = values - values.mean(0)
    values[:, constant] = 0
    return values / np.where(constant, 1, values.std(0))


def fit_probe(products: Array, labels: Array, penalty: float) -> Array:
    """Sums of a regularised logistic regression: its weights are `features.T @ sums`.

    Minimises `sum_p log(1 + exp(-y_p (w . x_p + b))) + penalty / 2 ||w||^2` over w and b with L-BFGS.

    Args:
        products: inner products of the prompts' features, `[prompts, prompts]`.
        labels: 1 or -1, `[prompts]`.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    values, vectors = np.linalg.eigh(products)
    alive = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
    lengths, vectors = np.sqrt(values[alive]), vectors[:, alive]
    inputs = vectors * lengths

    def loss(parameters: Array) -> float:
        weights, bias = parameters[:-1], parameters[-1]
        return float(np.logaddexp(0, -labels * (inputs @ weights + bias)).sum() + penalty / 2 * weights @ weights)

    def slope(parameters: Array) -> Array:
        weights, bias = parameters[:-1], parameters[-1]
        pull = -labels * expit(-labels * (inputs @ weights + bias))
        return np.append(inputs.T @ pull + penalty * weights, pull.sum())

    found = minimize(
        loss,
        np.zeros(len(lengths) + 1),
        jac=slope,
        method="L-BFGS-B",
        options={"maxiter": 10_000, "maxfun": 20_000, "maxcor": 30, "ftol": 0.0, "gtol": 1e-9},
    )
    sums: Array = vectors @ (found.x[:-1] / lengths)
    return sums
