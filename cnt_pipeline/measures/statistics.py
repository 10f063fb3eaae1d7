"""Is a difference between two models real, and what could have gone unseen: tests of paired samples.

SciPy and statsmodels compute what they have. Two things they have not: an interval for the difference of two shares
asked on the same prompts (Tango 1998, Statistics in Medicine 17:891-908), and the power of McNemar's exact test (summed
over the number of discordant pairs as in Duffy 1984, Biometrics 40:1007-1015, from SciPy's binomials).
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from cnt_pipeline.measures.intervals import CONFIDENCE, bootstrap_mean, wilson_interval

ALPHA = 1 - CONFIDENCE
POWER = 0.8
PERMUTATIONS = 1999
"""Sign flips behind a p-value of samples that are no 0 or 1: the least that they can show is 1 in 1,000."""

Test = Literal["mcnemar_exact", "sign_flip"]


class Comparison(NamedTuple):
    """One model against another on `n` prompts: mean difference with its 95 % interval, and the two-sided p.

    `discordant` counts the prompts on which 0/1 samples differ, None for other samples. `mde` is the smallest true
    difference that the test would have shown with a chance of 80 % at alpha 5 %, None where it would have shown none or
    samples do not vary. `low` and `high` are None where samples without bounds differ by the same on every prompt: that
    says nothing of rarer differences.
    """

    test: Test
    difference: float
    low: float | None
    high: float | None
    p: float
    n: int
    discordant: int | None
    mde: float | None


def compare_paired(ours: Sequence[float], theirs: Sequence[float], bounded: bool, seed: int) -> Comparison:
    """Compare samples of the same prompts in the same order: exactly where all are 0 or 1, else by resampling.

    `bounded` says that samples lie in [0, 1].

    Raises:
        ValueError: no samples, or not as many on either side.
    """
    if not ours or len(ours) != len(theirs):
        raise ValueError("a paired comparison needs as many samples, at least one, on either side")
    if {*ours, *theirs} <= {0.0, 1.0}:
        gained = sum(a > b for a, b in zip(ours, theirs, strict=True))
        lost = sum(a < b for a, b in zip(ours, theirs, strict=True))
        return compare_shares(gained, lost, len(ours))
    return _resampled(np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64), bounded, seed)


def compare_shares(gained: int, lost: int, n: int) -> Comparison:
    """McNemar's exact test of 0/1 samples: of `n` prompts `gained` turned from 0 to 1, `lost` from 1 to 0."""
    from statsmodels.stats.contingency_tables import mcnemar

    # The test reads the discordant cells alone; those on the diagonal only make the table whole.
    p = float(mcnemar([[n - gained - lost, lost], [gained, 0]], exact=True).pvalue)
    low, high = tango_interval(gained, lost, n)
    mde = mcnemar_mde(n, min(gained, lost) / n)
    return Comparison("mcnemar_exact", (gained - lost) / n, low, high, min(p, 1.0), n, gained + lost, mde)


def _resampled(differences: np.ndarray, bounded: bool, seed: int) -> Comparison:
    """Interval by the paired bootstrap, p by flipping the signs of differences, mde by the power of the t-test."""
    from scipy.stats import permutation_test
    from statsmodels.stats.power import TTestPower

    n = len(differences)
    mean, low, high, _ = bootstrap_mean(differences.tolist(), seed)
    if np.ptp(differences) == 0:
        p = 1.0 if mean == 0 else min(2 * 0.5**n, 1.0)
        if not bounded:
            return Comparison("sign_flip", mean, None, None, p, n, None, None)
        return Comparison("sign_flip", mean, max(mean - _rarer(n), -1.0), min(mean + _rarer(n), 1.0), p, n, None, None)
    p = permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=PERMUTATIONS, vectorized=True,
        batch=500, rng=np.random.default_rng(seed),
    ).pvalue  # fmt: skip
    effect = TTestPower().solve_power(nobs=n, alpha=ALPHA, power=POWER) if n > 1 else math.nan
    mde = float(effect) * float(differences.std(ddof=1)) if math.isfinite(effect) else None
    if bounded and mde is not None and mde > 1:
        mde = None  # no difference that there can be
    return Comparison("sign_flip", mean, low, high, float(p), n, None, mde)


def _rarer(n: int) -> float:
    """Upper end of Wilson's interval for a share seen 0 times in `n`: how many prompts may differ unseen."""
    return wilson_interval(0, n)[1]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for having asked as many questions (Holm 1979, by statsmodels), in the order given."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(list(p_values), alpha=ALPHA, method="holm")[1]] if p_values else []


def tango_interval(gained: int, lost: int, n: int) -> tuple[float, float]:
    """Tango's 95 % score interval of (gained - lost) / n, the difference of two paired shares.

    Where no prompt changed it is not empty but +-z^2 / (n + z^2): a change on rarer prompts stays possible.
    """
    from scipy.optimize import brentq
    from scipy.stats import norm

    z = float(norm.isf(ALPHA / 2))
    seen = (gained - lost) / n

    def score(difference: float) -> float:
        """Tango's statistic for a true `difference`, with the chance of losing a prompt at its likeliest."""
        b = -(gained + lost) + (2 * n - gained + lost) * difference
        c = -lost * difference * (1 - difference)
        chance = (math.sqrt(max(b * b - 8 * n * c, 0.0)) - b) / (4 * n)
        variance = n * (2 * chance + difference * (1 - difference))
        return (gained - lost - n * difference) / math.sqrt(variance) if variance > 0 else 0.0

    def root(wanted: float, edge: float) -> float:
        """Where the score is `wanted`, between what was seen and an end of [-1, 1]."""
        near = seen + math.copysign(1e-12, edge - seen)
        if abs(edge - seen) < 1e-9 or (score(near) - wanted) * (score(edge) - wanted) > 0:
            return edge
        return float(brentq(lambda value: score(value) - wanted, near, edge, xtol=1e-10))

    inside = 1 - 1e-9
    return (-1.0 if seen <= -inside else root(z, -inside)), (1.0 if seen >= inside else root(-z, inside))


def mcnemar_mde(n: int, noise: float) -> float | None:
    """Smallest share of `n` prompts that must change one way for McNemar's exact test to show it with power 80 %.

    `noise` is the share of prompts that change either way beside, by chance: the rarer direction of what was seen. None
    where even a change on every prompt that is left would not be seen.
    """
    from scipy.optimize import brentq

    power = _power(n, noise)
    most = 1 - 2 * noise
    if most <= 0 or power(most) < POWER:
        return None
    return float(brentq(lambda share: power(share) - POWER, 0.0, most, xtol=1e-6))


def _power(n: int, noise: float) -> Callable[[float], float]:
    """Chance that McNemar's exact test rejects, by the share of prompts that truly change one way."""
    from scipy.stats import binom

    pairs = np.arange(n + 1)
    # The most prompts of the rarer direction among so many discordant pairs at which the two-sided p is below alpha.
    edge = binom.ppf(ALPHA / 2, pairs, 0.5)
    edge = np.where(2 * binom.cdf(edge, pairs, 0.5) <= ALPHA, edge, edge - 1)

    def power(share: float) -> float:
        discordant = 2 * noise + share
        if discordant <= 0:
            return 0.0
        one_way = (noise + share) / discordant
        rejects = binom.cdf(edge, pairs, one_way) + binom.sf(pairs - edge - 1, pairs, one_way)
        return float((binom.pmf(pairs, n, min(discordant, 1.0)) * rejects).sum())

    return power
