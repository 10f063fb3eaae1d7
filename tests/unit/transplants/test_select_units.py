"""Units are taken or left as a whole: an FFN channel, an attention head with its keys and values, or one neuron."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from cnt_pipeline.errors import StudyError
from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Method
from cnt_pipeline.transplants.select.candidates import Space
from cnt_pipeline.transplants.select.judge import Outcome
from cnt_pipeline.transplants.select.units import Order, read_unit_orders
from tests.unit.models.conftest import build
from tests.unit.transplants.selecting import DONOR, SPACE, StubJudge, order, search

ORDER = Order(np.array([7, 3, 9, 1, 4, 0]), np.array([2, 3, 6]))


def test_an_order_counts_units_and_hands_out_their_neurons() -> None:
    assert len(ORDER) == 3 and ORDER.owner.tolist() == [0, 0, 1, 2, 2, 2]
    assert ORDER.top(2).tolist() == [7, 3, 9] and ORDER.top(0).tolist() == [] and len(ORDER.top(None)) == 6
    assert ORDER.pick(np.array([2, 0])).numbers.tolist() == [1, 4, 0, 7, 3]
    left = ORDER.without(1, 2)
    assert (left.numbers.tolist(), left.ends.tolist()) == ([7, 3, 1, 4, 0], [2, 5])
    assert ORDER.sums(np.arange(10)).tolist() == [10, 9, 5]
    assert ORDER.sorted_by(np.array([1.0, 5.0, 1.0])).numbers.tolist() == [9, 7, 3, 1, 4, 0]
    joined = ORDER.first(1).followed_by(ORDER.pick(np.array([2])))
    assert (joined.numbers.tolist(), joined.ends.tolist()) == ([7, 3, 1, 4, 0], [2, 5])


@pytest.mark.parametrize("budget", [0, 22, 33, 10**9])
def test_the_units_within_a_budget_are_the_longest_start_that_respects_it(budget: int) -> None:
    sizes = [22, 33, 66]
    grouped = Order(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), np.array([2, 5, 11]))
    assert grouped.parameters(SPACE).tolist() == np.cumsum(sizes).tolist()
    kept = grouped.within(SPACE, budget)
    assert len(kept) == max(sum(np.cumsum(sizes) <= budget), 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Architecture, Space, Path]:
    """A tiny Llama's neurons with random scores."""
    folder = tmp_path_factory.mktemp("model")
    build("llama", folder)
    architecture = read_architecture(folder)
    space = Space.of(architecture, 100_000)
    frame = space.frame(np.arange(len(space.sizes))).with_columns(
        pl.lit(0.0).alias("lookalike_weight"),
        pl.Series("score", np.random.default_rng(5).normal(size=len(space.sizes))),
    )
    frame = frame.with_columns(pl.col("score").rank("ordinal", descending=True).cast(pl.Int32).alias("rank"))
    write_parquet(frame.to_arrow(), folder / "ranking.parquet")
    return architecture, space, folder / "ranking.parquet"


def members(space: Space, ranked: Order, unit: int) -> pl.DataFrame:
    return space.frame(ranked.pick(np.array([unit])).numbers)


def test_a_channel_is_a_gate_row_an_up_row_and_a_down_column_of_one_layer(
    model: tuple[Architecture, Space, Path],
) -> None:
    architecture, space, ranking = model
    ranked = read_unit_orders(ranking, space, architecture, ["ffn_channel"])[0.0]
    assert len(ranked) == architecture.layers * architecture.ffn
    scores = pl.read_parquet(ranking).sort("layer", "family")
    sums = []
    for unit in range(len(ranked)):
        rows = members(space, ranked, unit)
        assert sorted(rows["family"]) == ["down", "gate", "up"]
        assert rows["layer"].n_unique() == rows["neuron"].n_unique() == 1
        sums.append(rows.join(scores, on=["layer", "family", "neuron"])["score"].sum())
    assert sums == sorted(sums, reverse=True)


def test_a_head_is_its_keys_and_values_with_every_query_that_shares_them(
    model: tuple[Architecture, Space, Path],
) -> None:
    architecture, space, ranking = model
    ranked = read_unit_orders(ranking, space, architecture, ["head", "ffn_channel"])[0.0]
    assert len(ranked) == architecture.layers * (architecture.ffn + architecture.kv_heads)
    assert sorted(ranked.numbers.tolist()) == list(range(len(space.sizes)))
    shared = architecture.heads // architecture.kv_heads
    head = architecture.head_dim
    for unit in range(len(ranked)):
        rows = members(space, ranked, unit)
        if "q" in set(rows["family"]):
            counts = dict(rows.group_by("family").len().iter_rows())
            assert counts == {"q": shared * head, "o": shared * head, "k": head, "v": head}


def test_families_narrow_units_to_their_members_in_them(model: tuple[Architecture, Space, Path]) -> None:
    architecture, space, ranking = model
    ranked = read_unit_orders(ranking, space, architecture, ["ffn_channel"], ("gate", "up", "q"))[0.0]
    assert set(space.frame(ranked.numbers)["family"]) == {"gate", "up"}
    assert set(np.diff(ranked.ends).tolist()) == {2}
    with pytest.raises(StudyError, match=r"method\.families: no unit of method\.units has a member in them"):
        read_unit_orders(ranking, space, architecture, ["ffn_channel"], ("q",))


def test_a_row_is_a_unit_of_its_own_and_excludes_the_others(model: tuple[Architecture, Space, Path]) -> None:
    architecture, space, ranking = model
    ranked = read_unit_orders(ranking, space, architecture)[0.0]
    assert len(ranked) == len(space.sizes)
    assert ranked.numbers.tolist() == space.numbers(pl.read_parquet(ranking).sort("rank")).tolist()
    with pytest.raises(ValueError, match="row stands for single neurons and excludes the other units"):
        Method(units=("row", "head"))


def test_the_search_keeps_units_whole_also_when_it_thins() -> None:
    numbers = order()
    grouped = Order(numbers, np.arange(1, 141) * 3)
    needed = set(grouped.without(18, 24).first(24).numbers.tolist())
    asking = search(StubJudge(lambda chosen, eta: DONOR if needed <= chosen else Outcome(0.0)))
    asking.orders = {0.0: grouped}
    found = asking.bisect()
    units = [set(grouped.pick(np.array([unit])).numbers.tolist()) for unit in range(len(grouped))]
    chosen = set(found.chosen.tolist())
    assert needed <= chosen and all(unit <= chosen or not unit & chosen for unit in units)
    assert found.trial.neurons == len(chosen) == 3 * len([unit for unit in units if unit <= chosen])
    assert len(chosen) < 3 * 30
