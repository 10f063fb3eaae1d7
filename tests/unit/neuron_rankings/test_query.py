"""The SQL of every scoring rule gives what numpy gives in float64 over the raw values."""

import warnings
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from cnt_pipeline.activation_caches.schema import STATISTICS_SCHEMA
from cnt_pipeline.activation_caches.statistics import Moments, to_table
from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.neuron_rankings.deltas import DELTAS, write_deltas
from cnt_pipeline.neuron_rankings.query import RANKING, SQL, rank
from cnt_pipeline.store.parquet import write_parquet
from tests.unit.models.conftest import CONFIGS, build

WIDTHS = {(0, "q"): 4, (0, "down"): 7, (1, "q"): 4, (1, "down"): 7, (10, "q"): 4}
COUNTS = {"transfer": {"function": 9}, "misfire": {"lookalike": 5}, "keep": {"lookalike": 5, "utility": 12}}
WEIGHTS = (0.0, 0.5, 2.0)
MU = 0.7
Raw = dict[str, dict[str, dict[tuple[int, str], npt.NDArray[np.float32]]]]


def raw_values(seed: int = 0) -> Raw:
    """Effects of every objective, role and neuron: `[prompts, neurons]`."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            role: {key: generator.normal(0.1, 1, (count, width)).astype(np.float32) for key, width in WIDTHS.items()}
            for role, count in roles.items()
        }
        for name, roles in COUNTS.items()
    }


def tables(raw: Raw, folder: Path) -> dict[str, Path]:
    paths = {}
    for name, roles in raw.items():
        paths[name] = folder / f"{name}.parquet"
        statistics = {
            (role, layer, family): Moments.of(array)
            for role, arrays in roles.items()
            for (layer, family), array in arrays.items()
        }
        write_parquet(to_table(statistics), paths[name])
    return paths


def ranked(raw: Raw, folder: Path, weights: tuple[float, ...] = WEIGHTS) -> pl.DataFrame:
    folder.mkdir(parents=True, exist_ok=True)
    count = rank("effect", tables(raw, folder), {"weights": list(weights), "damage_weight": MU}, folder)
    frame = pl.read_parquet(folder / RANKING, glob=False)
    assert len(frame) == count == len(weights) * sum(WIDTHS.values())
    return frame


def error_of_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    error: npt.NDArray[np.float64] = values.std(0, ddof=1) / np.sqrt(len(values))
    return error


def test_scores_and_their_parts_equal_a_float64_reference(tmp_path: Path) -> None:
    raw = raw_values()
    frame = ranked(raw, tmp_path)
    for (weight, layer, family), part in frame.group_by("lookalike_weight", "layer", "family"):
        part = part.sort("neuron")
        key = (layer, family)
        effect = raw["transfer"]["function"][key].astype(np.float64)  # type: ignore[index]
        misfire = raw["misfire"]["lookalike"][key].astype(np.float64)  # type: ignore[index]
        keep = np.concatenate([arrays[key] for arrays in raw["keep"].values()]).astype(np.float64)  # type: ignore[index]
        damage = np.maximum(-keep.mean(0), 0)
        close = {"rel": 1e-9, "abs": 1e-12}
        assert part["effect"].to_numpy() == pytest.approx(effect.mean(0), **close)
        assert part["lookalike_effect"].to_numpy() == pytest.approx(misfire.mean(0), **close)
        assert part["damage"].to_numpy() == pytest.approx(damage, **close)
        score = effect.mean(0) - weight * misfire.mean(0) - MU * damage  # type: ignore[operator]
        assert part["score"].to_numpy() == pytest.approx(score, **close)
        variance = (
            error_of_mean(effect) ** 2
            + (weight * error_of_mean(misfire)) ** 2  # type: ignore[operator]
            + np.where(damage > 0, (MU * error_of_mean(keep)) ** 2, 0)
        )
        assert part["standard_error"].to_numpy() == pytest.approx(np.sqrt(variance), **close)
        agreement = (np.sign(effect) == np.sign(effect.mean(0))).mean(0)
        assert part["sign_agreement"].to_numpy() == pytest.approx(agreement, **close)


def test_contrast_is_the_root_of_the_mean_square_over_prompts(tmp_path: Path) -> None:
    raw = {"transfer": {"function": {k: a**2 for k, a in raw_values()["transfer"]["function"].items()}}}
    assert rank("contrast", tables(raw, tmp_path), {}, tmp_path) == sum(WIDTHS.values())
    frame, by_effect = pl.read_parquet(tmp_path / RANKING), ranked(raw_values(), tmp_path / "effect")
    assert frame.schema == by_effect.schema
    assert set(frame["lookalike_weight"]) == {0.0} and frame["damage"].null_count() == len(frame)
    assert frame["rank"].to_list() == list(range(1, len(frame) + 1))
    assert frame["score"].to_list() == sorted(frame["score"], reverse=True)
    for (layer, family), part in frame.group_by("layer", "family"):
        squares = raw["transfer"]["function"][layer, family].astype(np.float64)  # type: ignore[index]
        score = np.sqrt(squares.mean(0))
        assert part.sort("neuron")["score"].to_numpy() == pytest.approx(score)
        assert part.sort("neuron")["standard_error"].to_numpy() == pytest.approx(error_of_mean(squares) / (2 * score))


def test_ranks_go_from_the_highest_score_down_within_each_weight(tmp_path: Path) -> None:
    frame = ranked(raw_values(), tmp_path)
    assert frame["lookalike_weight"].unique(maintain_order=True).to_list() == list(WEIGHTS)
    for _, part in frame.group_by("lookalike_weight", maintain_order=True):
        assert part["rank"].to_list() == list(range(1, len(part) + 1))
        assert part["score"].to_list() == sorted(part["score"], reverse=True)


def test_neurons_that_tie_go_by_layer_family_and_number(tmp_path: Path) -> None:
    raw = raw_values()
    for roles in raw.values():
        for arrays in roles.values():
            for array in arrays.values():
                array[:] = 0.5
    frame = ranked(raw, tmp_path, (1.0,))
    order = [(layer, family, neuron) for (layer, family), width in WIDTHS.items() for neuron in range(width)]
    found = list(zip(frame["layer"], frame["family"], frame["neuron"], strict=True))
    assert found == sorted(order)


def test_equal_statistics_give_equal_bytes_in_whatever_order_their_rows_lie(tmp_path: Path) -> None:
    raw = raw_values()
    ranked(raw, tmp_path / "one")
    first = (tmp_path / "one" / RANKING).read_bytes()
    for i in range(3):
        ranked(raw, tmp_path / f"again{i}")
        assert (tmp_path / f"again{i}" / RANKING).read_bytes() == first
    paths = tables(raw, tmp_path / "one")
    for path in paths.values():
        shuffled = pl.read_parquet(path).sample(fraction=1.0, shuffle=True, seed=1)
        write_parquet(shuffled.to_arrow().cast(STATISTICS_SCHEMA), path)
    (tmp_path / "out").mkdir()
    rank("effect", paths, {"weights": list(WEIGHTS), "damage_weight": MU}, tmp_path / "out")
    assert (tmp_path / "out" / RANKING).read_bytes() == first


def test_one_prompt_gives_a_score_with_no_spread_and_not_a_missing_one(tmp_path: Path) -> None:
    raw = raw_values()
    short = {
        name: {role: {key: array[:1] for key, array in arrays.items()} for role, arrays in roles.items()}
        for name, roles in raw.items()
    }
    frame = ranked(short, tmp_path, (1.0,))
    assert frame.null_count().sum_horizontal().item() == 0
    assert frame["score"].is_finite().all() and frame["standard_error"].is_finite().all()


def test_a_neuron_without_any_effect_agrees_with_nothing(tmp_path: Path) -> None:
    raw = raw_values()
    raw["transfer"]["function"][0, "q"][:, 1] = 0
    frame = ranked(raw, tmp_path, (0.0,))
    dead = frame.filter((pl.col("layer") == 0) & (pl.col("family") == "q") & (pl.col("neuron") == 1))
    assert (dead["effect"].item(), dead["sign_agreement"].item()) == (0.0, 0.0)


def test_ranking_gives_no_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ranked(raw_values(), tmp_path)


def test_paths_with_quotes_spaces_and_glob_characters_are_read(tmp_path: Path) -> None:
    assert len(ranked(raw_values(), tmp_path / "it's [a] place")) > 0


def test_a_table_that_is_not_parquet_is_a_broken_artifact(tmp_path: Path) -> None:
    paths = tables(raw_values(), tmp_path)
    paths["keep"].write_bytes(b"PAR1 and nothing else")
    with pytest.raises(BrokenArtifactError, match="run `cnt run` again"):
        rank("effect", paths, {"weights": [1.0], "damage_weight": 1.0}, tmp_path)
    paths["keep"].unlink()
    with pytest.raises(BrokenArtifactError, match="run `cnt run` again"):
        rank("effect", paths, {"weights": [1.0], "damage_weight": 1.0}, tmp_path)
    assert not (tmp_path / RANKING).exists()


def test_every_rule_says_what_it_does() -> None:
    for path in SQL.glob("*.sql"):
        assert path.read_text(encoding="utf-8").startswith("-- ")


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_deltas_are_the_norms_of_what_the_swap_would_move(tmp_path: Path, name: str) -> None:
    target, donor = tmp_path / "target", tmp_path / "donor"
    build(name, target)
    build(name, donor, seed=1)
    architecture = read_architecture(target)
    write_deltas(read_index(target), read_index(donor), architecture, tmp_path)
    assert rank("delta_norm", {"deltas": tmp_path / DELTAS}, {}, tmp_path) == sum(
        m.neurons for m in architecture.matrices
    )
    ours, theirs = load_file(target / "model.safetensors"), load_file(donor / "model.safetensors")
    frame = pl.read_parquet(tmp_path / DELTAS)
    for matrix in architecture.matrices:
        rows = frame.filter((pl.col("layer") == matrix.layer) & (pl.col("family") == matrix.family)).sort("neuron")
        for neuron in (0, matrix.neurons // 2, matrix.neurons - 1):
            at = torch.tensor([int(matrix.positions[neuron])])
            parts = [(theirs[matrix.tensor].double() - ours[matrix.tensor].double()).index_select(matrix.axis, at)]
            if matrix.bias:
                parts.append((theirs[matrix.bias].double() - ours[matrix.bias].double())[at])
            norm = torch.cat([part.flatten() for part in parts]).norm()
            assert rows["norm"][neuron] == pytest.approx(float(norm), rel=1e-6)
            assert rows["parameters"][neuron] == sum(part.numel() for part in parts)
    ranking = pl.read_parquet(tmp_path / RANKING)
    assert ranking["score"].to_list() == sorted(frame["norm"], reverse=True)
    assert set(ranking["lookalike_weight"]) == {0.0}
