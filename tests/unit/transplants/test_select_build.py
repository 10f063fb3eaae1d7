"""The selection as files: the plan, the trials, the chosen setting, and controls with the plan's amplitudes."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cnt_pipeline.errors import InadmissibleError
from cnt_pipeline.study.schema import Accept, Function
from cnt_pipeline.transplants.select.build import (
    plan_of,
    refuse_inadmissible,
    write_controls,
    write_selection,
    write_trials,
)
from cnt_pipeline.transplants.select.candidates import read_orders
from cnt_pipeline.transplants.select.judge import Baselines, Outcome
from cnt_pipeline.transplants.select.search import Found
from cnt_pipeline.transplants.select.units import Order
from tests.unit.transplants.selecting import (
    ALL,
    DONOR,
    MATRICES,
    SPACE,
    TARGET,
    StubJudge,
    order,
    ranking,
    reaching,
    search,
)


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


def test_the_plan_carries_the_rankings_standard_error_and_null_where_the_rule_has_none(tmp_path: Path) -> None:
    found, path = found_in(tmp_path), tmp_path / "ranking.parquet"
    assert plan_of(found, SPACE, path).to_frame()["standard_error"].null_count() == len(found.chosen)
    ranked = pl.read_parquet(path).with_columns(
        (1 / pl.col("rank") + pl.col("lookalike_weight")).alias("standard_error")
    )
    ranked.write_parquet(path)
    plan = plan_of(found, SPACE, path).to_frame()
    weight = found.trial.lookalike_weight
    assert plan["standard_error"].to_list() == [1 / rank + weight for rank in plan["rank"].to_list()]


def test_every_trial_and_the_chosen_setting_are_written(tmp_path: Path) -> None:
    found = found_in(tmp_path)
    write_trials(found.trials, tmp_path / "trials.parquet")
    trials = pl.read_parquet(tmp_path / "trials.parquet")
    assert trials["number"].to_list() == list(range(len(found.trials)))
    assert trials["neurons"].to_list() == [trial.neurons for trial in found.trials]
    assert trials.filter("holds")["parameters"].min() == found.trial.parameters
    document = write_selection(
        found, SPACE, Baselines(TARGET, DONOR, 1), "bisect", ("row",), tmp_path / "selection.json"
    )
    assert json.loads(json.dumps(document)) == json.loads((tmp_path / "selection.json").read_text())
    assert document["meets_every_limit"] is True
    assert (document["selection"], document["units"], document["eta"]) == ("bisect", ["row"], 2.0)
    assert document["amplitude"] == {"min": 2.0, "median": 2.0, "max": 2.0}
    assert document["share"] == pytest.approx(SPACE.parameters(found.chosen) / 20_000)


def test_trials_carry_the_number_of_their_samples_and_the_selection_that_of_the_transplant(tmp_path: Path) -> None:
    asking = search(StubJudge(lambda chosen, eta: replace(DONOR, asked=len(chosen))))
    asking.attempt("fixed", Order.of_neurons(order()[:20]), 1.0, 0.5)
    asking.attempt("fixed", Order.of_neurons(order()[:10]), 1.0, 0.5)
    asking.attempt("fixed", Order.of_neurons(order()[:20][::-1].copy()), 1.0, 0.0)
    found = asking.found()
    write_trials(found.trials, tmp_path / "trials.parquet")
    assert pl.read_parquet(tmp_path / "trials.parquet")["asked"].to_list() == [20, 10, 20]
    document = write_selection(found, SPACE, Baselines(TARGET, DONOR, 1), "top_k", ("row",), tmp_path / "s.json")
    assert document["asked"] == 10 and "asked" not in document["transplant"]
    assert Outcome(**document["transplant"]) == replace(DONOR, asked=None)


def test_neurons_with_amplitudes_of_their_own_keep_them_in_the_plan_and_have_no_eta(tmp_path: Path) -> None:
    asking = search(StubJudge(lambda chosen, eta: DONOR), read_orders(ranking(tmp_path), SPACE, None))
    numbers, amplitudes = order(1)[:20], np.linspace(0.5, 9, 20).astype(np.float32)
    asking.attempt("prune", Order.of_neurons(numbers), amplitudes, 0.5)
    found = asking.found()
    plan = plan_of(found, SPACE, tmp_path / "ranking.parquet").to_frame()
    given = dict(zip(numbers.tolist(), amplitudes.tolist(), strict=True))
    assert dict(zip(SPACE.numbers(plan).tolist(), plan["amplitude"].to_list(), strict=True)) == given
    document = write_selection(found, SPACE, Baselines(TARGET, DONOR, 1), "prune", ("row",), tmp_path / "s.json")
    assert document["eta"] is None
    assert document["amplitude"] == {"min": 0.5, "median": pytest.approx(4.75), "max": 9.0}
    write_trials(found.trials, tmp_path / "trials.parquet")
    assert pl.read_parquet(tmp_path / "trials.parquet")["eta"].to_list() == [None]


def test_controls_have_the_budget_and_the_amplitudes_of_the_transplant(tmp_path: Path) -> None:
    chosen = order()[:50]
    amplitudes = np.random.default_rng(1).uniform(0, 12, 50).astype(np.float32)
    write_controls(SPACE, chosen, amplitudes, order(5), range(3, 6), tmp_path)

    def by_matrix(frame: pl.DataFrame) -> dict[tuple[object, ...], list[float]]:
        return {key: sorted(part["amplitude"].to_list()) for key, part in frame.group_by("layer", "family")}

    wanted = by_matrix(SPACE.frame(chosen).with_columns(pl.Series("amplitude", amplitudes)))
    random = pl.read_parquet(tmp_path / "random.parquet")
    assert set(random["variant"]) == {0, 1, 2}
    for variant, part in random.group_by("variant"):
        assert SPACE.numbers(part).tolist() == SPACE.random_like(chosen, 3 + variant[0]).tolist()  # type: ignore[operator]
        assert by_matrix(part) == wanted
    largest = pl.read_parquet(tmp_path / "largest_delta.parquet")
    numbers = SPACE.numbers(largest)
    assert SPACE.parameters(numbers) <= SPACE.parameters(chosen)
    assert numbers.tolist() == order(5)[: len(numbers)].tolist()
    assert set(largest["amplitude"]) == {float(np.median(amplitudes))}


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
