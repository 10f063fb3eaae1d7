"""Claims about the list of what moved: every planned row and column with its digests, taken again by torch here."""

import hashlib
from pathlib import Path

import polars as pl
import pytest
import torch

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants import moved
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.moved import NEURONS, NEURONS_SCHEMA
from tests.unit.transplants.checkpoints import MIXED, Row, load, make_plan, random_tensors, write_checkpoint

MODES = [True, False]


def listed(folder: Path, rows: list[Row], digests: bool = True) -> pl.DataFrame:
    indices = [read_index(folder / side) for side in ("target", "donor")]
    write_transplant(*indices, make_plan(rows), folder / "out", digests=digests, neurons=folder / NEURONS)
    return pl.read_parquet(folder / NEURONS)


def pair(folder: Path, dtype: torch.dtype = torch.bfloat16, shards: int = 1) -> None:
    write_checkpoint(folder / "target", random_tensors(1, dtype), shards)
    write_checkpoint(folder / "donor", random_tensors(2, dtype))


def sha256_of(tensor: torch.Tensor, axis: int, position: int) -> str:
    """Of one row or column of a whole tensor in memory."""
    return hashlib.sha256(tensor.select(axis, position).contiguous().view(-1).view(torch.uint8).numpy()).hexdigest()


@pytest.mark.parametrize("digests", MODES)
@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("size", [1 << 22, 100], ids=["one block", "few rows a block"])
def test_digests_are_those_of_rows_and_columns_before_and_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, dtype: torch.dtype, shards: int, digests: bool
) -> None:
    for module in ("blocks", "stream", "donor"):
        monkeypatch.setattr(f"cnt_pipeline.transplants.{module}.BUFFER", size)
    pair(tmp_path, dtype, shards)
    frame = listed(tmp_path, MIXED, digests)
    before, after = load(tmp_path / "target"), load(tmp_path / "out")
    for row in frame.iter_rows(named=True):
        place = row["axis"], row["position"]
        assert row["sha256_before"] == sha256_of(before[row["tensor"]], *place)
        assert row["sha256_after"] == sha256_of(after[row["tensor"]], *place)
        assert row["parameters"] == before[row["tensor"]].select(*place).numel()
    moved = frame.filter(pl.col("sha256_before") != pl.col("sha256_after"))
    assert len(moved) == len(frame)


def test_every_planned_neuron_has_a_row_and_its_bias_another_with_what_the_ranking_said(tmp_path: Path) -> None:
    pair(tmp_path)
    rows = [(t, a, p, 1.0 + i / 4, b) for i, (t, a, p, _, b) in enumerate(MIXED)]
    frame = listed(tmp_path, rows)
    wanted = {}
    for planned, (tensor, axis, position, amplitude, bias) in zip(make_plan(rows).table.to_pylist(), rows, strict=True):
        said = (amplitude, planned["score"], planned["rank"], planned["standard_error"], planned["neuron"])
        wanted[tensor, axis, position] = said
        if bias:
            wanted[bias, 0, position] = said
    columns = ("amplitude", "score", "rank", "standard_error", "neuron")
    found = {
        (row["tensor"], row["axis"], row["position"]): tuple(row[name] for name in columns)
        for row in frame.iter_rows(named=True)
    }
    assert found == wanted
    assert len(frame) == len(wanted)
    assert frame["standard_error"].null_count() > 0
    assert frame.columns == NEURONS_SCHEMA.names


def test_rows_are_in_the_order_of_the_checkpoints_bytes_and_equal_plans_give_equal_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder in (tmp_path / "a", tmp_path / "b"):
        pair(folder)
    frame = listed(tmp_path / "a", MIXED)
    index = read_index(tmp_path / "a" / "target")
    places = [(index[row["tensor"]].begin, row["position"]) for row in frame.iter_rows(named=True)]
    assert places == sorted(places)
    listed(tmp_path / "b", MIXED)
    assert (tmp_path / "a" / NEURONS).read_bytes() == (tmp_path / "b" / NEURONS).read_bytes()
    monkeypatch.setattr(moved, "_ROWS_AT_ONCE", 3)
    (tmp_path / "c").mkdir()
    pair(tmp_path / "c")
    assert listed(tmp_path / "c", MIXED).equals(frame)


def test_an_empty_plan_gives_an_empty_list(tmp_path: Path) -> None:
    pair(tmp_path)
    frame = listed(tmp_path, [])
    assert len(frame) == 0
    assert frame.columns == NEURONS_SCHEMA.names


def test_a_write_that_fails_leaves_no_list(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "target", {"w": torch.zeros(2, 2, dtype=torch.float16)})
    write_checkpoint(tmp_path / "donor", {"w": torch.full((2, 2), 60000.0, dtype=torch.float16)})
    with pytest.raises(InputError, match="beyond the largest"):
        listed(tmp_path, [("w", 0, 0, 2.0, None)])
    assert not (tmp_path / NEURONS).exists()
