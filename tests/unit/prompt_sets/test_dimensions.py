"""Prompts of a safety dimension: two parts that share no row, apart from lessons and from earlier dimensions."""

import json
from pathlib import Path

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.dimensions import build_dimension, materialize_dimension
from cnt_pipeline.prompt_sets.schema import read_prompts
from cnt_pipeline.study.schema import Dimension, PromptSource, Shares

SHARES = Shares()


def dimension(folder: Path, name: str = "traps", count: int = 200, first: int = 0, **keys: int) -> Dimension:
    path = folder / f"{name}.jsonl"
    texts = [f"placeholder request number {number}" for number in range(first, first + count)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Dimension(name=name, prompts=(PromptSource.model_validate({"file": str(path), **keys}),))


def ids(sets: dict[str, list[str]]) -> set[str]:
    return {name for part in sets.values() for name in part}


def parts(asked: Dimension, **keys: object) -> dict[str, list[str]]:
    found = materialize_dimension(asked, SHARES, 0, **keys)  # type: ignore[arg-type]
    return {split: [prompt.id for prompt in rows] for split, rows in found.items()}


def test_every_prompt_either_finds_neurons_or_measures(tmp_path: Path) -> None:
    found = parts(dimension(tmp_path))
    assert list(found) == ["score", "test"]
    assert not set(found["score"]) & set(found["test"])
    assert len(ids(found)) == 200
    assert len(found["score"]) / 200 == pytest.approx(SHARES.score / (SHARES.score + SHARES.test), abs=0.12)


def test_the_files_hold_the_parts(tmp_path: Path) -> None:
    asked = dimension(tmp_path)
    counts = build_dimension(asked, SHARES, 0, tmp_path)["rows"]
    found = parts(asked)
    for split, expected in found.items():
        assert [prompt.id for prompt in read_prompts(tmp_path / f"{split}.function.parquet")] == expected
        assert counts[split] == len(expected)


def test_a_row_added_moves_no_other(tmp_path: Path) -> None:
    few, more = parts(dimension(tmp_path, count=50)), parts(dimension(tmp_path, count=60))
    assert all(set(few[split]) <= set(more[split]) for split in few)


def test_taught_prompts_are_left_out(tmp_path: Path) -> None:
    whole = parts(dimension(tmp_path))
    taught = {*whole["score"][:3], *whole["test"][:3]}
    assert ids(parts(dimension(tmp_path), taught=taught)) == ids(whole) - taught


def test_a_prompt_of_an_earlier_dimension_is_refused(tmp_path: Path) -> None:
    first = ids(parts(dimension(tmp_path, "first", count=40)))
    later = dimension(tmp_path, "later", count=40, first=39)
    with pytest.raises(InputError, match="later shares a prompt with the dimension first"):
        parts(later, earlier={"first": first})
    assert len(ids(parts(dimension(tmp_path, "later", count=40, first=40), earlier={"first": first}))) == 40


def test_an_empty_part_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"compare\.dimensions: traps: no prompt is left for its part"):
        parts(dimension(tmp_path, count=1))
