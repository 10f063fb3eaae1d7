"""Neurons by number: their names, their gates, the top of a ranking, and the controls matched to it."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
import torch

from cnt_pipeline.errors import StudyError
from cnt_pipeline.transplants.select.candidates import gates_of, read_orders, read_scores
from tests.unit.transplants.selecting import ALL, MATRICES, SPACE, order, ranking

CPU = torch.device("cpu")


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


def test_every_neuron_may_have_a_gate_of_its_own() -> None:
    chosen, amplitudes = np.array([139, 3, 40, 300]), np.array([1.5, 2.5, 3.5, 4.5], dtype=np.float32)
    gates = SPACE.gates(chosen, amplitudes, CPU)
    assert gates[0, "q"][3] == 2.5 and gates[0, "down"][0] == 3.5 and gates[0, "down"][99] == 1.5
    assert sum(int(gate.count_nonzero()) for gate in gates.values()) == 4


def test_scores_are_read_by_neuron_number_at_one_lookalike_weight(tmp_path: Path) -> None:
    scores = read_scores(ranking(tmp_path), SPACE, 0.5)
    assert np.argsort(-scores, kind="stable").tolist() == order(1).tolist()


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
