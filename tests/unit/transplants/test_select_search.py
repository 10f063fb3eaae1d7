"""The search finds the smallest set that holds, asks about none twice, and keeps what it was asked."""

from dataclasses import replace

import numpy as np
import pytest

from cnt_pipeline.study.schema import Accept
from cnt_pipeline.transplants.select.judge import Baselines, Outcome
from tests.unit.transplants.selecting import ALL, DONOR, SPACE, TARGET, StubJudge, order, reaching, search


@pytest.mark.parametrize("needed", [1, 2, 3, 7, 40, 139, 333, ALL])
def test_bisect_finds_the_smallest_top_of_a_ranking_within_its_tolerance(needed: int) -> None:
    judge = StubJudge(reaching(needed, order()))
    found = search(judge).bisect()
    assert found.trial.holds and set(order()[:needed].tolist()) <= set(found.chosen.tolist())
    bisected = min(t.neurons for t in found.trials if t.holds and t.phase != "thin")
    assert needed <= len(found.chosen) <= bisected <= needed * 1.05 + 1
    assert len(judge.asked) == len(set(judge.asked)) <= 60
    assert len(found.trials) >= len(judge.asked)


def test_a_top_that_is_more_than_needed_is_thinned_group_by_group() -> None:
    ranked = order()
    idle = set(ranked[30:60].tolist())
    core = set(ranked[:80].tolist()) - idle
    judge = StubJudge(lambda chosen, eta: DONOR if core <= chosen else replace(DONOR, function=0.0))
    found = search(judge).bisect()
    assert core <= set(found.chosen.tolist())
    assert len(found.chosen) < 75
    assert len(judge.asked) == len(set(judge.asked))


def test_every_group_at_the_low_end_gets_its_turn_when_thinning() -> None:
    ranked = order()
    needed = set(ranked[:20].tolist()) | set(ranked[78:80].tolist())
    judge = StubJudge(lambda chosen, eta: DONOR if needed <= chosen else replace(DONOR, function=0.0))
    found = search(judge).bisect()
    idle = set(ranked[44:70].tolist())
    assert not idle & set(found.chosen.tolist())
    assert needed <= set(found.chosen.tolist())


def test_a_response_that_comes_and_goes_still_gives_a_set_that_holds() -> None:
    def rule(chosen: set[int], eta: float) -> Outcome:
        return DONOR if len(chosen) % 3 == 1 or len(chosen) > 200 else replace(DONOR, function=0.1)

    judge = StubJudge(rule)
    found = search(judge).bisect()
    assert found.trial.holds
    assert judge.rule(set(found.chosen.tolist()), 1.0) == DONOR
    assert found.trial.neurons == len(found.chosen)
    assert len(judge.asked) == len(set(judge.asked))


def test_the_chosen_set_is_the_one_that_its_trial_was_about_also_among_equal_trials() -> None:
    core = set(order()[:9].tolist())
    judge = StubJudge(lambda chosen, eta: DONOR if core <= chosen else replace(DONOR, function=0.0))
    found = search(judge, {0.0: order(), 1.0: np.concatenate([order()[:9][::-1], order()[9:]])}).bisect()
    assert found.trial in found.trials
    assert SPACE.parameters(found.chosen) == found.trial.parameters
    assert core <= set(found.chosen.tolist())


def test_a_better_ranking_or_amplitude_is_taken_when_it_needs_fewer_parameters() -> None:
    poor, good = order(1), order(2)
    core = set(good[:10].tolist())

    def rule(chosen: set[int], eta: float) -> Outcome:
        return DONOR if core <= chosen else replace(DONOR, function=0.0)

    found = search(StubJudge(rule), {0.0: poor, 0.5: good, 1.0: poor}).bisect()
    assert found.trial.lookalike_weight == 0.5
    assert len(found.chosen) == 10
    judge = StubJudge(lambda c, eta: rule(c, eta) if eta == 1 else reaching(4, good)(c, eta))
    found = search(judge, {0.0: good}, eta=(1.0, 2.0)).bisect()
    assert (found.trial.eta, len(found.chosen)) == (2.0, 4)


@pytest.mark.parametrize(
    ("harm", "limit"),
    [({"misfire": 0.2}, {}), ({"utility": 0.8}, {}), ({"coherence": 0.5}, {})],
    ids=["misfires", "utility", "coherence"],
)
def test_a_set_that_does_harm_does_not_hold(harm: dict[str, float], limit: dict[str, float]) -> None:
    found = search(StubJudge(reaching(10, order(), **harm))).bisect()
    assert not found.trial.holds
    assert found.trial.recovery == 1.0
    assert not any(trial.holds for trial in found.trials)
    tolerant = Accept(over_refusal=0.5, utility_loss=0.5, coherence_loss=0.5)
    assert search(StubJudge(reaching(10, order(), **harm)), accept=tolerant).bisect().trial.holds


def test_limits_are_met_exactly_at_their_edge() -> None:
    edge = Outcome(0.98, 0.02 + 0.03, 0.9 - 0.01, 1.0 - 0.01)
    assert Baselines(TARGET, DONOR, 1).harmless(edge, Accept())
    for worse in ({"misfire": 0.0501}, {"utility": 0.8899}, {"coherence": 0.9899}, {"utility": None}):
        assert not Baselines(TARGET, DONOR, 1).harmless(replace(edge, **worse), Accept())


def test_when_nothing_holds_the_closest_is_shown_and_all_were_tried_up_to_every_neuron() -> None:
    def rule(chosen: set[int], eta: float) -> Outcome:
        return replace(DONOR, function=0.7 * min(len(chosen), 200) / 200)

    judge = StubJudge(rule)
    found = search(judge).bisect()
    assert not found.trial.holds
    assert found.trial.recovery == pytest.approx(0.7)
    assert found.trial.parameters == min(t.parameters for t in found.trials if t.recovery == found.trial.recovery)
    assert max(t.neurons for t in found.trials) == ALL
    assert len(judge.asked) == len(set(judge.asked))


def test_deletion_is_recovery_downwards() -> None:
    baselines = Baselines(replace(DONOR, function=0.8), replace(TARGET, function=0.2), -1)
    assert baselines.distance == pytest.approx(0.6)
    assert baselines.recovery(replace(TARGET, function=0.35)) == pytest.approx(0.75)
    assert baselines.recovery(replace(TARGET, function=1.0)) < 0
    core = set(order()[:12].tolist())
    judge = StubJudge(lambda c, eta: replace(DONOR, function=0.2 if core <= c else 0.7), baselines)
    assert len(search(judge).bisect().chosen) == 12


def test_the_same_set_under_two_weights_is_judged_once() -> None:
    judge = StubJudge(reaching(10, order()))
    found = search(judge, {0.0: order(), 0.5: order(), 1.0: order()}, selection="top_k", count=10).fixed()
    assert len(judge.asked) == 1
    assert [trial.lookalike_weight for trial in found.trials] == [0.0, 0.5, 1.0]


def test_top_k_and_top_fraction_take_what_was_asked_for() -> None:
    judge = StubJudge(reaching(10, order()))
    found = search(judge, selection="top_k", count=25).fixed()
    assert found.chosen.tolist() == order()[:25].tolist()
    found = search(judge, selection="top_k", count=10**6).fixed()
    assert len(found.chosen) == ALL
    found = search(judge, selection="top_fraction", fraction=0.05).fixed()
    assert SPACE.parameters(found.chosen) <= 1000 < SPACE.parameters(order()[: len(found.chosen) + 1])
    found = search(judge, {0.0: order(1), 1.0: order()}, selection="top_k", count=10, eta=(1.0, 2.0)).fixed()
    assert (found.trial.lookalike_weight, found.trial.holds) == (1.0, True)
