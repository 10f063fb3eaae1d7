"""Intervals against formulas written out here, and the same figures for the same seed."""

import math

import numpy as np
import pytest

from cnt_pipeline.measures.intervals import RESAMPLES, bootstrap_mean, interval_over_draws, mean_interval

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(successes: int, n: int) -> tuple[float, float]:
    """Wilson (1927), equation 8: p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2), over 1 + z^2/n."""
    p = successes / n
    middle = p + Z**2 / (2 * n)
    spread = Z * math.sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
    return (middle - spread) / (1 + Z**2 / n), (middle + spread) / (1 + Z**2 / n)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 60), (60, 60), (3, 7), (50, 100), (999, 1000)])
def test_shares_have_wilson_intervals(successes: int, n: int) -> None:
    estimate = mean_interval([1.0] * successes + [0.0] * (n - successes), 0)
    low, high = wilson(successes, n)
    assert estimate.value == successes / n
    assert estimate.low == pytest.approx(max(low, 0), abs=1e-9)
    assert estimate.high == pytest.approx(min(high, 1), abs=1e-9)
    assert estimate.n == n


def test_a_perfect_share_is_still_uncertain() -> None:
    estimate = mean_interval([1.0] * 10, 0)
    assert estimate.high == pytest.approx(1.0) and estimate.low == pytest.approx(0.7224672, abs=1e-6)


def test_means_have_percentile_bootstrap_intervals() -> None:
    data = np.random.default_rng(5).normal(3, 2, 200)
    estimate = mean_interval(data.tolist(), 1)
    draws = np.random.default_rng(99).integers(0, 200, (20_000, 200))
    expected = np.percentile(data[draws].mean(1), [2.5, 97.5])
    assert estimate.value == pytest.approx(data.mean())
    assert [estimate.low, estimate.high] == pytest.approx(expected, abs=0.03)
    assert estimate.n == 200


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    values = [0.1, 0.9, 0.4, 0.35, 0.8]
    assert bootstrap_mean(values, 7) == bootstrap_mean(values, 7)
    assert bootstrap_mean(values, 7) != bootstrap_mean(values, 8)
    assert RESAMPLES >= 1000


def test_equal_values_have_no_spread() -> None:
    assert bootstrap_mean([0.5] * 9, 0) == (0.5, 0.5, 0.5, 9)
    assert bootstrap_mean([0.25], 0) == (0.25, 0.25, 0.25, 1)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one value"):
        mean_interval([], 0)


def test_an_interval_over_draws_covers_draws_as_well_as_prompts() -> None:
    generator = np.random.default_rng(0)
    draws = [[float(v) for v in generator.random(60) < share] for share in (0.1, 0.5, 0.9)]
    own = [mean_interval(values, 0) for values in draws]
    both = interval_over_draws(draws, own, 0)
    assert both.value == pytest.approx(np.mean([np.mean(values) for values in draws]))
    spread = np.std([estimate.value for estimate in own]) / np.sqrt(3)
    assert both.high - both.low > 3 * spread
    assert (both.low, both.high, both.n) == (*interval_over_draws(draws, own, 0)[1:3], 60)


def test_an_interval_over_draws_that_agree_is_no_narrower_than_theirs() -> None:
    own = mean_interval([0.0] * 30, 0)
    both = interval_over_draws([[0.0] * 30] * 3, [own] * 3, 0)
    assert (both.low, both.high) == pytest.approx((own.low, own.high)) and both.high > 0.1
