"""A cache is the same whatever interrupted it, loses no row, and its statistics are those of all its rows."""

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow.parquet as pq
import pytest

from cnt_pipeline.activation_caches import capture as capture_module
from cnt_pipeline.activation_caches import write
from cnt_pipeline.activation_caches.capture import SHARD, Item, capture
from cnt_pipeline.activation_caches.probes.effect import EffectProbe, nodes
from cnt_pipeline.activation_caches.schema import STATISTICS, shard_name
from cnt_pipeline.activation_caches.statistics import Moments, from_table, to_table
from cnt_pipeline.activation_caches.write import Values, write_shard
from cnt_pipeline.errors import InputError
from cnt_pipeline.store.parquet import write_parquet
from tests.unit.activation_caches.conftest import Asked

WIDTHS = {"gate": 5, "down": 8, "q": 3}
LAYERS = 2
COUNT = 2 * SHARD + 7


def items(count: int = COUNT) -> list[Item]:
    roles = ("function", "lookalike", "utility")
    return [Item(f"id{i:04d}", roles[(i + i // 5) % 3], 3 + (i * 7) % 20) for i in range(count)]


def everything(count: int = COUNT) -> Values:
    """Values of every item, over many orders of magnitude."""
    generator = np.random.default_rng(3)
    return {
        (layer, family): (
            generator.normal(size=(count, width)) * 10.0 ** generator.integers(-30, 3, (1, width))
        ).astype(np.float32)
        for layer in range(LAYERS)
        for family, width in WIDTHS.items()
    }


class Probe:
    """Looks its values up; dies at a given call when told to."""

    def __init__(self, dies_at: int | None = None, count: int = COUNT) -> None:
        self.values = everything(count)
        self.calls: list[list[int]] = []
        self.dies_at = dies_at

    def __call__(self, members: Sequence[int]) -> Values:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append(list(members))
        return {key: array[list(members)] for key, array in self.values.items()}


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    capture(Probe(), items(), folder)
    return folder


def rows(folder: Path, family: str) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob(f"{family}-*.parquet")))


def test_no_row_is_lost_and_every_value_is_its_own(undisturbed: Path) -> None:
    values, asked = everything(), items()
    for family in WIDTHS:
        found = rows(undisturbed, family)
        assert len(found) == COUNT * LAYERS
        for layer in range(LAYERS):
            part = found.filter(pl.col("layer") == layer)
            assert sorted(part["id"]) == [item.id for item in asked]
            for name, role, row in zip(part["id"], part["role"], part["values"].to_numpy(), strict=True):
                i = int(name[2:])
                assert role == asked[i].role
                assert np.array_equal(row, values[layer, family][i])


def test_shards_go_from_long_to_short_prompts_and_the_last_is_never_dropped(tmp_path: Path) -> None:
    for count in (1, SHARD - 1, SHARD, SHARD + 1, COUNT):
        folder = tmp_path / str(count)
        folder.mkdir()
        probe = Probe(count=count)
        seen: list[tuple[int, int]] = []
        capture(probe, items(count), folder, lambda what, done, total, seen=seen: seen.append((done, total)))
        lengths = [items(count)[i].length for call in probe.calls for i in call]
        assert lengths == sorted(lengths, reverse=True)
        assert sorted(i for call in probe.calls for i in call) == list(range(count))
        assert [len(call) for call in probe.calls[:-1]] == [SHARD] * (len(probe.calls) - 1)
        assert seen[-1] == (count, count)
        assert len(list(folder.glob("gate-*.parquet"))) == len(probe.calls)


def test_statistics_are_numpys_over_all_raw_rows(undisturbed: Path) -> None:
    values, asked = everything(), items()
    frame = pl.read_parquet(undisturbed / STATISTICS)
    assert len(frame) == 3 * LAYERS * sum(WIDTHS.values())
    for (role, layer, family), part in frame.group_by("role", "layer", "family", maintain_order=True):
        mine = [i for i, item in enumerate(asked) if item.role == role]
        raw = values[layer, family][mine].astype(np.float64)  # type: ignore[index]
        part = part.sort("neuron")
        assert part["neuron"].to_list() == list(range(raw.shape[1]))
        assert set(part["n"]) == {len(mine)}
        assert part["mean"].to_numpy() == pytest.approx(raw.mean(0), rel=1e-9, abs=1e-300)
        assert part["m2"].to_numpy() == pytest.approx(raw.var(0) * len(mine), rel=1e-9, abs=1e-300)
        assert np.array_equal(part["min"].to_numpy(), raw.min(0).astype(np.float32))
        assert np.array_equal(part["max"].to_numpy(), raw.max(0).astype(np.float32))
        assert part["positive"].to_numpy() == pytest.approx((raw > 0).mean(0))


@pytest.mark.parametrize("dies_at", [0, 1, 2])
def test_a_capture_that_was_killed_goes_on_behind_its_finished_shards_to_the_same_bytes(
    tmp_path: Path, undisturbed: Path, dies_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(Probe(dies_at), items(), tmp_path)
    resumed = Probe()
    capture(resumed, items(), tmp_path)
    assert len(resumed.calls) == 3 - dies_at
    assert files(tmp_path) == files(undisturbed)


def killed_after(writes: int, folder: Path) -> int:
    """Capture in a process that kills itself in the middle of a write; its wait status."""
    process = os.fork()
    if process:
        return os.waitpid(process, 0)[1]
    left = [writes]

    def write_then_die(table: Any, path: Path, **options: Any) -> None:
        if left[0] == 0:
            path.with_suffix(".tmp").write_bytes(b"half a file")
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        write_parquet(table, path, **options)

    try:
        write.write_parquet = capture_module.write_parquet = write_then_die  # type: ignore[attr-defined]
        capture(Probe(), items(), folder)
    finally:
        os._exit(1)


@pytest.mark.parametrize("writes", range(13))
def test_a_kill_in_the_middle_of_any_write_leaves_no_trace_in_the_resumed_cache(
    tmp_path: Path, undisturbed: Path, writes: int
) -> None:
    assert os.WTERMSIG(killed_after(writes, tmp_path)) == signal.SIGKILL
    assert any(path.suffix == ".tmp" for path in tmp_path.rglob("*"))
    capture(Probe(), items(), tmp_path)
    assert files(tmp_path) == files(undisturbed)


def test_a_kill_while_the_markers_are_removed_costs_work_but_changes_nothing(tmp_path: Path, undisturbed: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        capture(Probe(2), items(), tmp_path)
    (tmp_path / STATISTICS).write_bytes((undisturbed / STATISTICS).read_bytes())
    (tmp_path / "partial/00000.parquet").unlink()
    (tmp_path / "gate-00099.tmp").write_bytes(b"half a file")
    resumed = Probe()
    capture(resumed, items(), tmp_path)
    assert len(resumed.calls) == 2
    assert files(tmp_path) == files(undisturbed)


def test_values_that_are_not_finite_are_refused_by_layer_and_family(tmp_path: Path) -> None:
    for poison in (np.nan, np.inf):
        probe = Probe()
        probe.values[1, "down"][5, 2] = poison
        with pytest.raises(InputError, match=r"layer 1, family down: .* not finite; check the checkpoints"):
            capture(probe, items(), tmp_path)


def test_merged_statistics_are_those_of_the_whole_however_it_is_cut() -> None:
    generator = np.random.default_rng(0)
    raw = (generator.normal(1e3, 1e-2, size=(50, 4))).astype(np.float32)
    whole = Moments.of(raw)
    for cuts in ([1], [49], [10, 11, 40], list(range(1, 50))):
        parts = [Moments.of(part) for part in np.split(raw, cuts)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        assert merged.n == whole.n
        for name in ("mean", "m2", "low", "high", "positive"):
            assert getattr(merged, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    assert whole.m2 == pytest.approx(raw.astype(np.float64).var(0) * 50, rel=1e-9)


def test_statistics_survive_their_table() -> None:
    generator = np.random.default_rng(0)
    statistics = {
        (role, layer, family): Moments.of(generator.normal(size=(3 + layer, width)).astype(np.float32))
        for role in ("function", "utility")
        for layer in (0, 11)
        for family, width in (("q", 1), ("gate", 6))
    }
    again = from_table(to_table(statistics))
    assert list(again) == list(statistics)
    for key, one in statistics.items():
        assert again[key].n == one.n
        for name in ("mean", "m2", "low", "high", "positive"):
            assert np.array_equal(getattr(again[key], name), getattr(one, name)), (key, name)


def test_duckdb_reads_and_unnests_the_rows(undisturbed: Path) -> None:
    values = everything()
    with duckdb.connect() as connection:
        found = connection.sql(
            f"""
            SELECT layer, neuron, count(*) AS n, avg(value::DOUBLE) AS mean
            FROM (
                SELECT layer, unnest(range(len("values"))) AS neuron, unnest("values") AS value
                FROM read_parquet('{undisturbed}/gate-*.parquet')
            ) GROUP BY ALL ORDER BY ALL
            """
        ).fetchall()
    assert len(found) == LAYERS * WIDTHS["gate"]
    for layer, neuron, n, mean in found:
        assert n == COUNT
        assert mean == pytest.approx(values[layer, "gate"][:, neuron].astype(np.float64).mean(), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e-18, 1e-12])
def test_tiny_effects_do_not_underflow_on_their_way_through_parquet(tmp_path: Path, asked: Asked, scale: float) -> None:
    real = EffectProbe(asked.swap, asked.objectives, nodes(1), 4)(range(11))
    wanted = {key: array.astype(np.float64) * scale for key, array in real.items()}
    capture(
        lambda members: {key: array[list(members)].astype(np.float32) for key, array in wanted.items()},
        [Item(f"{i}", "function", 1) for i in range(11)],
        tmp_path,
    )
    for layer, family in wanted:
        part = rows(tmp_path, family).filter(pl.col("layer") == layer)
        found = part["values"].to_numpy().astype(np.float64)
        reference = wanted[layer, family][[int(name) for name in part["id"]]]
        largest = np.abs(reference).max(1, keepdims=True)
        assert (np.abs(found - reference) <= 1e-3 * largest).all()
    means = pl.read_parquet(tmp_path / STATISTICS).filter((pl.col("layer") == 0) & (pl.col("family") == "down"))
    assert means["mean"].to_numpy() == pytest.approx(wanted[0, "down"].mean(0), rel=1e-3, abs=scale * 1e-9)


@pytest.mark.parametrize("weight", [1e-12, 1e-24, 1e-30])
def test_an_objective_of_tiny_weight_has_tiny_effects_and_not_none(asked: Asked, weight: float) -> None:
    goals = [type(g)(tuple((e, w * weight) for e, w in g.terms)) for g in asked.objectives]
    large = EffectProbe(asked.swap, asked.objectives, nodes(1), 4)(range(11))
    small = EffectProbe(asked.swap, goals, nodes(1), 4)(range(11))
    for key, array in large.items():
        largest = np.abs(array).max(1, keepdims=True)
        assert (np.abs(small[key].astype(np.float64) / weight - array) <= 1e-3 * largest).all(), key


def test_rows_are_written_byte_stream_split_and_compressed(undisturbed: Path) -> None:
    metadata = pq.ParquetFile(undisturbed / shard_name("gate", 0)).metadata
    column = metadata.row_group(0).column(3)
    assert column.path_in_schema == "values.list.element"
    assert "BYTE_STREAM_SPLIT" in column.encodings
    assert column.compression == "ZSTD"


def test_layers_of_one_family_with_other_widths_are_refused(tmp_path: Path) -> None:
    values: Values = {(0, "gate"): np.zeros((2, 3), np.float32), (1, "gate"): np.zeros((2, 4), np.float32)}
    with pytest.raises(ValueError, match="every layer of family gate must hold 2 rows of 3 values"):
        write_shard(tmp_path, 0, ["a", "b"], ["r", "r"], values)


def test_a_cache_of_a_real_probe_is_the_same_whatever_the_batch_size(tmp_path: Path, asked: Asked) -> None:
    found: list[npt.NDArray[np.float64]] = []
    for size in (1, 5, 64):
        folder = tmp_path / str(size)
        folder.mkdir()
        probe = EffectProbe(asked.swap, asked.objectives, nodes(2), size)
        capture(probe, [Item(f"{i}", "function", 5 + i % 3) for i in range(11)], folder)
        found.append(pl.read_parquet(folder / STATISTICS)["mean"].to_numpy())
    for other in found[1:]:
        assert np.abs(other - found[0]).max() <= 1e-5
