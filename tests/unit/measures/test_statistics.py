"""Tests of paired samples against sums written out here, likelihoods maximised numerically, and simulation."""

import math
from itertools import product

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm, ttest_rel

from cnt_pipeline.measures.statistics import compare_paired, compare_shares, holm, mcnemar_mde, tango_interval


def two_sided(gained: int, lost: int) -> float:
    """McNemar (1947) exactly: both tails of a fair coin thrown for every discordant pair."""
    pairs = gained + lost
    tail = sum(math.comb(pairs, k) for k in range(min(gained, lost) + 1)) / 2**pairs
    return min(2 * tail, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (6, 0), (5, 5), (12, 2), (3, 17), (40, 60)])
def test_mcnemars_p_is_that_of_a_fair_coin_over_the_discordant_pairs(gained: int, lost: int) -> None:
    found = compare_shares(gained, lost, 200)
    assert found.p == pytest.approx(two_sided(gained, lost), rel=1e-12)
    assert (found.difference, found.discordant, found.n) == ((gained - lost) / 200, gained + lost, 200)


def likeliest_score(gained: int, lost: int, n: int, difference: float) -> float:
    """Tango's statistic with its nuisance chance found by maximising the trinomial likelihood."""

    def minus_log(chance: float) -> float:
        parts = ((gained, chance + difference), (lost, chance), (n - gained - lost, 1 - 2 * chance - difference))
        return -sum(count * math.log(max(p, 1e-300)) for count, p in parts if count)

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    chance = minimize_scalar(minus_log, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
    variance = n * (2 * chance + difference - difference**2)
    return float((gained - lost - n * difference) / math.sqrt(variance))


@pytest.mark.parametrize(("gained", "lost", "n"), [(12, 2, 50), (14, 5, 44), (3, 1, 200), (7, 7, 30), (1, 9, 20)])
def test_the_interval_ends_where_the_score_test_rejects(gained: int, lost: int, n: int) -> None:
    low, high = tango_interval(gained, lost, n)
    z = norm.ppf(0.975)
    assert likeliest_score(gained, lost, n, low) == pytest.approx(z, abs=1e-4)
    assert likeliest_score(gained, lost, n, high) == pytest.approx(-z, abs=1e-4)


@pytest.mark.parametrize("n", [1, 16, 200])
def test_no_change_on_any_prompt_still_has_an_interval(n: int) -> None:
    z2 = norm.ppf(0.975) ** 2
    assert tango_interval(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-8)


@pytest.mark.parametrize(("gained", "lost"), [(20, 0), (0, 20)])
def test_a_change_on_every_prompt_ends_at_one(gained: int, lost: int) -> None:
    low, high = sorted(abs(end) for end in tango_interval(gained, lost, 20))
    assert high == 1.0 and 0.6 < low < 1


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    draws = np.random.default_rng(3).multinomial(60, [0.15, 0.05, 0.8], 2000)
    held = [low <= 0.1 <= high for low, high in (tango_interval(int(g), int(lost), 60) for g, lost, _ in draws)]
    assert 0.93 <= np.mean(held) <= 0.975


def power(n: int, one_way: float, other_way: float) -> float:
    """Chance of p < 0.05 by summing over every pair of counts."""
    rest = 1 - one_way - other_way
    return sum(
        math.comb(n, g) * math.comb(n - g, lost) * one_way**g * other_way**lost * rest ** (n - g - lost)
        for g, lost in product(range(n + 1), repeat=2)
        if g + lost <= n and two_sided(g, lost) < 0.05
    )


@pytest.mark.parametrize(("n", "noise"), [(20, 0.0), (40, 0.0), (40, 0.05), (60, 0.1)])
def test_the_smallest_difference_seen_has_a_power_of_eighty_per_cent(n: int, noise: float) -> None:
    found = mcnemar_mde(n, noise)
    assert found is not None
    assert power(n, noise + found, noise) == pytest.approx(0.8, abs=1e-4)


def test_five_prompts_can_show_nothing_and_six_only_a_change_of_all() -> None:
    assert mcnemar_mde(5, 0.0) is None
    found = mcnemar_mde(6, 0.0)
    assert found == pytest.approx(0.8 ** (1 / 6), abs=1e-5)


def test_other_samples_are_resampled_and_agree_with_the_t_test_where_that_holds() -> None:
    generator = np.random.default_rng(7)
    theirs = generator.random(120)
    ours = theirs + generator.normal(0.012, 0.05, 120)
    found = compare_paired(ours.tolist(), theirs.tolist(), True, 0)
    expected = ttest_rel(ours, theirs)
    assert found.test == "sign_flip" and found.discordant is None
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert found.p == pytest.approx(expected.pvalue, abs=0.02)
    bounds = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((bounds.low, bounds.high), abs=0.002)
    # (z_0.975 + z_0.8) standard errors, a little more for t on 119 degrees of freedom.
    assert found.mde == pytest.approx(2.825 * (ours - theirs).std(ddof=1) / math.sqrt(120), rel=0.005)
    assert found == compare_paired(ours.tolist(), theirs.tolist(), True, 0)


def test_samples_that_differ_nowhere_leave_room_only_where_they_have_bounds() -> None:
    bounded, free = (compare_paired([0.5] * 40, [0.5] * 40, bound, 0) for bound in (True, False))
    assert (bounded.p, bounded.difference, free.p) == (1.0, 0.0, 1.0)
    assert (bounded.low, bounded.high) == pytest.approx(tango_interval(0, 0, 40), abs=1e-8)
    assert (free.low, free.high, free.mde) == (None, None, None)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 0.0])])
def test_pairs_that_are_none_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="as many samples"):
        compare_paired(ours, theirs, True, 0)


def test_holm_multiplies_by_the_questions_left_and_never_falls() -> None:
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
