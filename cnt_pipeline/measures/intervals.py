"""How sure a figure is: Wilson intervals for shares, bootstrap intervals for means and paired differences."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
RESAMPLES = 2000


class Estimate(NamedTuple):
    """A mean with its 95 % interval and the number of samples that could be judged."""

    value: float
    low: float
    high: float
    n: int


def mean_interval(values: Sequence[float], seed: int) -> Estimate:
    """Wilson interval where every value is 0 or 1, else a percentile bootstrap of the mean.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an interval needs at least one value")
    if set(values) <= {0.0, 1.0}:
        return Estimate(float(np.mean(values)), *wilson_interval(int(sum(values)), len(values)), len(values))
    return bootstrap_mean(values, seed)


def wilson_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of the share `count` of `n`."""
    from scipy.stats import binomtest

    bounds = binomtest(count, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(bounds.low), float(bounds.high)


def interval_over_draws(draws: Sequence[Sequence[float]], estimates: Sequence[Estimate], seed: int) -> Estimate:
    """Mean over draws (of random neurons), each with its values by prompt; `estimates` are the draws' own.

    The interval covers draws as well as prompts: both are resampled together, and it is never narrower than the draws'
    own intervals are on average, which a bootstrap of values that are all equal would be.
    """
    generator = np.random.default_rng(seed)
    data = [np.asarray(values, dtype=np.float64) for values in draws]
    means = np.zeros(RESAMPLES)
    for _ in data:
        which = generator.integers(len(data), size=RESAMPLES)
        for number, values in enumerate(data):
            chosen = np.flatnonzero(which == number)
            prompts = generator.integers(len(values), size=(len(chosen), len(values)))
            means[chosen] += values[prompts].mean(1) / len(data)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = float(np.mean([estimate.value for estimate in estimates]))
    low = min(float(low), float(np.mean([estimate.low for estimate in estimates])))
    high = max(float(high), float(np.mean([estimate.high for estimate in estimates])))
    return Estimate(value, low, high, min(estimate.n for estimate in estimates))


def bootstrap_mean(values: Sequence[float], seed: int) -> Estimate:
    """Mean with a percentile bootstrap interval; a paired difference is the mean of the differences."""
    data = np.asarray(values, dtype=np.float64)
    if np.ptp(data) == 0:
        return Estimate(float(data[0]), float(data[0]), float(data[0]), len(data))
    from scipy.stats import bootstrap

    result = bootstrap(
        (data,), np.mean, n_resamples=RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(seed), vectorized=True,
    )  # fmt: skip
    interval = result.confidence_interval
    return Estimate(float(data.mean()), float(interval.low), float(interval.high), len(data))
