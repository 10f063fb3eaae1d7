"""The gap between benign and harmful hidden states, and the layers in which it opens."""

from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cnt_pipeline.activation_caches.write import write_shard
from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.safety_layers import Directions, cosine_gap, read_gaps, safety_layers

Array = npt.NDArray[np.float64]


def cosine(a: Array, b: Array) -> float:
    return float(np.dot(a, b) / np.sqrt(np.dot(a, a) * np.dot(b, b)))


def gap_pair_by_pair(benign: Array, harmful: Array) -> float:
    among = [cosine(a, b) for i, a in enumerate(benign) for j, b in enumerate(benign) if i != j]
    across = [cosine(a, b) for a, b in product(benign, harmful)]
    return sum(among) / len(among) - sum(across) / len(across)


def states(seed: int, prompts: int, width: int = 12, shift: float = 0.0) -> Array:
    lot = np.random.default_rng(seed)
    return np.float64(np.float32(lot.normal(size=(prompts, width)) * lot.uniform(0.1, 5, (prompts, 1)) + shift))


@pytest.mark.parametrize("benign,harmful", [(2, 1), (5, 9), (31, 4)])
def test_the_gap_is_the_mean_over_all_pairs_of_different_prompts(benign: int, harmful: int) -> None:
    one, other = states(benign, benign, shift=0.7), states(harmful + 100, harmful)
    assert cosine_gap(Directions.of(one), Directions.of(other)) == pytest.approx(gap_pair_by_pair(one, other), rel=1e-9)


def test_the_gap_ignores_the_length_of_a_state() -> None:
    one, other = states(1, 6, shift=0.5), states(2, 6)
    longer = one * np.arange(1, 7)[:, None]
    expected = cosine_gap(Directions.of(one), Directions.of(other))
    assert cosine_gap(Directions.of(longer), Directions.of(other)) == pytest.approx(expected, rel=1e-9)


def test_too_few_prompts_are_refused_by_their_number() -> None:
    with pytest.raises(InputError, match="1 benign and 3 harmful"):
        cosine_gap(Directions.of(states(1, 1)), Directions.of(states(2, 3)))


def test_a_state_without_direction_is_refused() -> None:
    with pytest.raises(InputError, match="all zeros"):
        Directions.of(np.zeros((2, 4)))


@pytest.mark.parametrize(
    "gaps,expected",
    [
        ([0, 0.0005, 0.01, 0.02, 0.0201, 0.3, 0.5], (1, 2)),  # 0.0001 is not above 0.0001
        ([0, 0.0005, 0.01, 0.02, 0.0202, 0.3, 0.5], (1, 2, 3, 4)),  # 0.0002 is, and the last layer is left out
        ([0, 0.2, 0.1, 0.4, 0.5], (0,)),  # the first run, not the largest
        ([0.5, 0.4, 0.3, 0.301, 0.4, 0.4], (3,)),  # a growth of exactly `start` does not begin a run
    ],
)
def test_safety_layers_are_the_first_unbroken_run_that_widens_the_gap(
    gaps: list[float], expected: tuple[int, ...]
) -> None:
    assert safety_layers(gaps, start=1e-3 + 1e-12, keep=1e-4 + 1e-12) == expected


def test_lower_thresholds_start_earlier_and_end_later() -> None:
    gaps = [0, 0.0005, 0.01, 0.02, 0.02005, 0.021, 0.5]
    assert safety_layers(gaps) == (1, 2)
    assert safety_layers(gaps, start=1e-4) == (0, 1, 2)
    assert safety_layers(gaps, keep=1e-5) == (1, 2, 3, 4)


def test_the_last_layer_never_belongs() -> None:
    with pytest.raises(InputError, match=r"only by at most 0 \(layer 0\).*`layers:`"):
        safety_layers([0, 0, 0, 0.9])
    with pytest.raises(InputError, match="no growth at all"):
        safety_layers([0, 0.9])


def write_states(folder: Path, layers: int, shards: int = 2) -> dict[tuple[str, int], Array]:
    """Random hidden states of all three kinds, spread over shards; returned by kind and layer."""
    folder.mkdir(exist_ok=True)
    counts = {"function": 5, "lookalike": 4, "utility": 6}
    whole = {
        (kind, layer): states(10 * layer + place, count, shift=0.2 * layer * (kind == "utility"))
        for layer in range(layers)
        for place, (kind, count) in enumerate(counts.items())
    }
    prompts = [(kind, i) for kind, count in counts.items() for i in range(count)]
    for number in range(shards):
        chosen = prompts[number::shards][::-1]
        write_shard(
            folder,
            number,
            [str(i) for _, i in chosen],  # the kinds share their ids
            [kind for kind, _ in chosen],
            {
                (layer, "hidden"): np.float32(np.stack([whole[kind, layer][i] for kind, i in chosen]))
                for layer in range(layers)
            },
        )
    return whole


@pytest.mark.parametrize("shards", [1, 4])
def test_gaps_are_read_from_all_shards_and_from_harmful_and_utility_prompts_alone(tmp_path: Path, shards: int) -> None:
    whole = write_states(tmp_path, layers=4, shards=shards)
    expected = [gap_pair_by_pair(whole["utility", layer], whole["function", layer]) for layer in range(4)]
    assert read_gaps(tmp_path) == pytest.approx(expected, rel=1e-9)


def test_harmful_prompts_may_come_from_a_folder_of_their_own(tmp_path: Path) -> None:
    benign, harmful = write_states(tmp_path / "study", layers=3, shards=2), tmp_path / "dimension"
    harmful.mkdir()
    own = [states(90 + layer, 7) for layer in range(3)]
    values = {(layer, "hidden"): np.float32(rows) for layer, rows in enumerate(own)}
    write_shard(harmful, 0, [str(i) for i in range(7)], ["function"] * 7, values)
    expected = [gap_pair_by_pair(benign["utility", layer], np.float32(own[layer])) for layer in range(3)]
    assert read_gaps(tmp_path / "study", harmful) == pytest.approx(expected, rel=1e-6)
    assert read_gaps(tmp_path / "study", tmp_path / "study") == read_gaps(tmp_path / "study")


def test_a_shard_of_look_alikes_alone_adds_nothing(tmp_path: Path) -> None:
    write_states(tmp_path, layers=2)
    before = read_gaps(tmp_path)
    values = {(layer, "hidden"): np.ones((3, 12), np.float32) for layer in range(2)}
    write_shard(tmp_path, 7, ["a", "b", "c"], ["lookalike"] * 3, values)
    assert read_gaps(tmp_path) == before


def test_a_folder_without_hidden_states_or_without_a_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no hidden states"):
        read_gaps(tmp_path)
    write_shard(tmp_path, 0, ["a", "b"], ["lookalike"] * 2, {(0, "hidden"): np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match="no prompts of the kinds function and utility"):
        read_gaps(tmp_path)
    write_shard(tmp_path, 1, ["a", "b"], ["utility"] * 2, {(0, "hidden"): np.ones((2, 3), np.float32)})
    with pytest.raises(InputError, match="2 benign and 0 harmful"):
        read_gaps(tmp_path)
