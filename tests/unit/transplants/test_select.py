"""The search finds the smallest set that holds, asks about none twice, and the controls match what was chosen."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cnt_pipeline.completions.build import compare_with_itself, complete, context_length, encode_set
from cnt_pipeline.errors import InadmissibleError, InputError, StudyError
from cnt_pipeline.models.architecture import Architecture, Matrix, read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import KINDS, Accept, Function, Generation, Kind, Method
from cnt_pipeline.transplants.select.build import (
    plan_of,
    refuse_inadmissible,
    write_controls,
    write_selection,
    write_trials,
)
from cnt_pipeline.transplants.select.candidates import Indices, Space, gates_of, read_orders
from cnt_pipeline.transplants.select.judge import Baselines, Judge, Outcome
from cnt_pipeline.transplants.select.search import Found, Search
from tests.unit.models.conftest import build, write_tokenizer

torch.set_num_threads(1)
CPU = torch.device("cpu")
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
        self.swap = SimpleNamespace(model=torch.nn.Linear(1, 1))

    def outcome(self, gates: Mapping[tuple[int, str], torch.Tensor], enough: float | None = None) -> Outcome:
        amplitudes = {float(value) for gate in gates.values() for value in gate.unique()} - {0.0}
        assert len(amplitudes) == 1
        chosen = frozenset(
            SPACE.offsets[key] + int(n) for key, gate in gates.items() for n in gate.nonzero().squeeze(1)
        )
        eta = amplitudes.pop()
        self.asked.append((eta, chosen))
        outcome = self.rule(set(chosen), eta)
        if enough is not None and self.baselines.recovery(outcome) < enough:
            return Outcome(outcome.function)
        return outcome


def order(seed: int = 0) -> Indices:
    return np.random.default_rng(seed).permutation(ALL).astype(np.int64)


def search(
    judge: StubJudge, orders: Mapping[float, Indices] | None = None, accept: Accept | None = None, **method: Any
) -> Search:
    orders = {0.0: order()} if orders is None else orders
    method = {"lookalike_weight": tuple(orders), **method}
    return Search(SPACE, orders, judge, Method(**method), accept or Accept())  # type: ignore[arg-type]


def reaching(needed: int, ranked: Indices, **fields: float) -> Callable[[set[int], float], Outcome]:
    """The function appears once the first `needed` neurons of a ranking are all swapped; others do nothing."""
    core = set(ranked[:needed].tolist())
    good = replace(DONOR, **fields)
    return lambda chosen, eta: good if core <= chosen else replace(good, function=0.4)


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


def test_numbers_and_names_of_neurons_are_two_ways_of_the_same_thing() -> None:
    chosen = order()
    frame = SPACE.frame(chosen)
    assert SPACE.numbers(frame).tolist() == chosen.tolist()
    assert SPACE.frame(np.array([0, 39, 40, 139, 140, ALL - 1])).rows() == [
        (0, "q", 0), (0, "q", 39), (0, "down", 0), (0, "down", 99), (1, "q", 0), (2, "down", 99),
    ]  # fmt: skip
    assert SPACE.parameters(np.array([0, 40])) == 10 + 1 + 25


def test_gates_stand_at_the_amplitude_on_the_chosen_and_at_zero_elsewhere() -> None:
    chosen = np.array([139, 3, 40])
    gates = SPACE.gates(chosen, 2.5, CPU)
    assert set(gates) == {(0, "q"), (0, "down")}
    assert gates[0, "q"].nonzero().flatten().tolist() == [3]
    assert gates[0, "down"].nonzero().flatten().tolist() == [0, 99]
    assert {float(g.max()) for g in gates.values()} == {2.5}
    listed = SPACE.frame(chosen).with_columns(pl.lit(2.5, pl.Float32).alias("amplitude"))
    again = gates_of(listed, SimpleNamespace(matrices=MATRICES), CPU)  # type: ignore[arg-type]
    assert all(torch.equal(again[key], gate) for key, gate in gates.items()) and len(again) == len(gates)


def test_random_neurons_match_the_chosen_by_layer_and_family_and_avoid_them() -> None:
    chosen = order()[:100]
    counts = SPACE.frame(chosen).group_by("layer", "family").len().sort("layer", "family")
    drawn = [SPACE.random_like(chosen, seed) for seed in range(5)]
    for one in drawn:
        assert SPACE.frame(one).group_by("layer", "family").len().sort("layer", "family").equals(counts)
        assert len(set(one.tolist())) == len(one)
        assert SPACE.parameters(one) == SPACE.parameters(chosen)
        assert not set(one.tolist()) & set(chosen.tolist())
    assert len({tuple(one) for one in drawn}) == 5
    assert np.array_equal(SPACE.random_like(chosen, 3), drawn[3])


def test_where_too_few_others_are_left_random_neurons_are_drawn_from_all() -> None:
    chosen = np.concatenate([np.arange(0, 30), np.arange(40, 50)])
    drawn = SPACE.random_like(chosen, 0)
    assert sum(n < 40 for n in drawn) == 30
    assert not set(drawn[drawn >= 40].tolist()) & set(chosen.tolist())


@pytest.mark.parametrize("budget", [0, 1, 11, 25, 36, 500, 10**9])
def test_the_top_within_a_budget_is_the_longest_that_respects_it(budget: int) -> None:
    top = SPACE.top_within(order(), budget)
    assert top.tolist() == order()[: len(top)].tolist()
    assert len(top) == 1 or SPACE.parameters(top) <= budget
    assert len(top) == ALL or SPACE.parameters(order()[: len(top) + 1]) > budget


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


def test_orders_are_read_by_rank_and_may_be_limited_to_families(tmp_path: Path) -> None:
    orders = read_orders(ranking(tmp_path), SPACE, None)
    assert {weight: numbers.tolist() for weight, numbers in orders.items()} == {
        0.0: order(0).tolist(), 0.5: order(1).tolist(),
    }  # fmt: skip
    some = read_orders(ranking(tmp_path), SPACE, ("down",))
    assert set(SPACE.frame(some[0.0])["family"]) == {"down"}
    assert some[0.0].tolist() == [n for n in order(0).tolist() if n % 140 >= 40]
    with pytest.raises(StudyError, match=r"method\.families: the models have no family 'gate'; choose among q, down"):
        read_orders(ranking(tmp_path), SPACE, ("down", "gate"))


def found_in(folder: Path) -> Found:
    orders = read_orders(ranking(folder), SPACE, None)
    return search(StubJudge(reaching(10, order(1))), orders, eta=(2.0,)).bisect()


def test_the_plan_names_tensor_position_and_score_of_every_chosen_neuron(tmp_path: Path) -> None:
    found = found_in(tmp_path)
    plan_of(found, SPACE, tmp_path / "ranking.parquet").write(tmp_path / "plan.parquet")
    plan = pl.read_parquet(tmp_path / "plan.parquet")
    assert sorted(SPACE.numbers(plan).tolist()) == sorted(found.chosen.tolist())
    ranks = {int(n): i + 1 for i, n in enumerate(order(1))}
    for row, number in zip(plan.iter_rows(named=True), SPACE.numbers(plan), strict=True):
        (owner,) = [m for m in MATRICES if (m.layer, m.family) == (row["layer"], row["family"])]
        assert (row["tensor"], row["axis"], row["bias"]) == (owner.tensor, owner.axis, owner.bias)
        assert row["position"] == owner.positions[row["neuron"]]
        assert row["rank"] == ranks[int(number)]
        assert row["score"] == pytest.approx(1 - (row["rank"] - 1) / (ALL - 1))
        assert row["amplitude"] == 2.0


def test_every_trial_and_the_chosen_setting_are_written(tmp_path: Path) -> None:
    found = found_in(tmp_path)
    write_trials(found.trials, tmp_path / "trials.parquet")
    trials = pl.read_parquet(tmp_path / "trials.parquet")
    assert trials["number"].to_list() == list(range(len(found.trials)))
    assert trials["neurons"].to_list() == [trial.neurons for trial in found.trials]
    assert trials.filter("holds")["parameters"].min() == found.trial.parameters
    document = write_selection(found, SPACE, Baselines(TARGET, DONOR, 1), tmp_path / "selection.json")
    assert document["meets_every_limit"] is True
    assert document["share"] == pytest.approx(SPACE.parameters(found.chosen) / 20_000)


def test_controls_have_the_budget_of_the_transplant(tmp_path: Path) -> None:
    chosen = order()[:50]
    write_controls(SPACE, chosen, 2.0, order(5), range(3, 6), tmp_path)
    random = pl.read_parquet(tmp_path / "random.parquet")
    assert set(random["variant"]) == {0, 1, 2} and set(random["amplitude"]) == {2.0}
    for variant, part in random.group_by("variant"):
        assert SPACE.numbers(part).tolist() == SPACE.random_like(chosen, 3 + variant[0]).tolist()  # type: ignore[operator]
    largest = SPACE.numbers(pl.read_parquet(tmp_path / "largest_delta.parquet"))
    assert SPACE.parameters(largest) <= SPACE.parameters(chosen)
    assert largest.tolist() == order(5)[: len(largest)].tolist()


def test_a_donor_that_does_not_lead_is_not_admissible() -> None:
    refuse_inadmissible(Baselines(TARGET, DONOR, 1), Function(name="refusal"), Accept())
    hair = Baselines(replace(TARGET, function=0.4), replace(DONOR, function=0.7), 1)
    refuse_inadmissible(hair, Function(name="refusal"), Accept())
    weak = Baselines(TARGET, replace(DONOR, function=0.29), 1)
    with pytest.raises(InadmissibleError, match=r"its refusal is 0\.29 and the target's 0\.00.*at least 0\.30 above"):
        refuse_inadmissible(weak, Function(name="refusal"), Accept())
    turned = Baselines(TARGET, DONOR, -1)
    with pytest.raises(InadmissibleError, match="below"):
        refuse_inadmissible(turned, Function(name="bias", direction="delete"), Accept())


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[GatedSwap, Any, Architecture]:
    target, donor = tmp_path_factory.mktemp("target"), tmp_path_factory.mktemp("donor")
    build("llama", target)
    build("llama", donor, seed=1)
    write_tokenizer(target)
    architecture = read_architecture(target)
    swap = GatedSwap(load_model(target), architecture, read_index(donor), read_index(target))
    return swap, load_tokenizer(target), architecture


def test_the_judge_finds_the_target_at_closed_gates_also_where_utility_prompts_have_no_answers(
    real: tuple[GatedSwap, Any, Architecture],
) -> None:
    swap, tokenizer, _ = real
    settings = Generation(max_new_tokens=4)
    prompts: dict[Kind, list[Prompt]] = {
        "function": [Prompt(f"{i}", (("user", f"w{5 + i} w9"),), choices=("w4", "w7")) for i in range(3)],
        "lookalike": [Prompt(f"l{i}", (("user", f"w{6 + i}"),), answers=("w3",)) for i in range(3)],
        "utility": [Prompt(f"u{i}", (("user", f"w{7 + i}"),)) for i in range(3)],
    }
    sets = {k: encode_set(tokenizer, p, settings, context_length(swap.model)) for k, p in prompts.items()}
    said = {k: compare_with_itself(complete(swap.model, tokenizer, s, settings, 2)) for k, s in sets.items()}
    function = Function(name="bias", direction="delete")
    judge = Judge(swap, tokenizer, function, sets, said, said, settings, 2)
    closed = judge.outcome({})
    assert judge.baselines.target == judge.baselines.donor
    assert closed.function == pytest.approx(judge.baselines.target.function)
    assert closed.utility == judge.baselines.target.utility == 1.0
    assert (closed.misfire, closed.coherence) == (judge.baselines.target.misfire, judge.baselines.target.coherence)
    opened = judge.outcome(swap.filled(1.0))
    assert opened.utility is not None and opened.utility < 1.0
    assert opened.function != pytest.approx(closed.function)
    nothing = {k: [replace(row, choice_loglik=()) for row in rows] for k, rows in said.items()}
    with pytest.raises(InputError, match=r"can judge no function prompt: give prompts\.function a column of choices"):
        Judge(swap, tokenizer, function, sets, nothing, said, settings, 2)
    assert set(sets) == set(KINDS)
