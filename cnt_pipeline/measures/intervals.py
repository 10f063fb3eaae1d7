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
        from scipy.stats import binomtest

        result = binomtest(int(sum(values)), len(values)).proportion_ci(CONFIDENCE, method="wilson")
        return Estimate(float(np.mean(values)), float(result.low), float(result.high), len(values))
    return bootstrap_mean(values, seed)


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
