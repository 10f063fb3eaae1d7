"""The prompt set of one safety dimension: a part that finds its neurons, and a part that measures it."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.build import divided, read_parts
from cnt_pipeline.prompt_sets.schema import Prompt, file_name, write_prompts
from cnt_pipeline.study.schema import Dimension, Shares, Split

PARTS: tuple[Split, ...] = ("score", "test")


def build_dimension(
    dimension: Dimension,
    shares: Shares,
    seed: int,
    folder: Path,
    taught: Collection[str] = (),
    earlier: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Any]:
    """Write `score.function.parquet` and `test.function.parquet` into `folder`; returns the number of rows of each.

    Raises:
        InputError: as `materialize_dimension`.
    """
    sets = materialize_dimension(dimension, shares, seed, taught, earlier)
    for split, rows in sets.items():
        write_prompts(rows, folder / file_name(split, "function"), split, "function")
    return {"rows": {split: len(rows) for split, rows in sets.items()}}


def materialize_dimension(
    dimension: Dimension,
    shares: Shares,
    seed: int,
    taught: Collection[str] = (),
    earlier: Mapping[str, Collection[str]] | None = None,
) -> dict[Split, list[Prompt]]:
    """The prompts of both parts, divided by digest.

    `taught` are ids of prompts that a recipe teaches, which are left out; `earlier` the ids of the dimensions before
    this one, by name.

    Raises:
        InputError: a source that cannot be used, an empty part, or a prompt that an earlier dimension holds.
    """
    place = f"compare.dimensions: {dimension.name}"
    whole = read_parts(dimension.prompts, place, taught)
    sets: dict[Split, list[Prompt]] = {
        split: divided(dimension.prompts, whole, split, PARTS, shares, seed) for split in PARTS
    }
    empty = next((split for split, rows in sets.items() if not rows), None)
    if empty is not None:
        raise InputError(
            f"{place}: no prompt is left for its part '{empty}'; give it more rows, or a larger share in "
            "`prompts.split`"
        )
    for name, ids in (earlier or {}).items():
        shared = [prompt.id for rows in sets.values() for prompt in rows if prompt.id in ids]
        if shared:
            count = "a prompt" if len(shared) == 1 else f"{len(shared)} prompts"
            raise InputError(
                f"{place} shares {count} with the dimension {name} (id {shared[0]}): a prompt may serve one dimension "
                "only; remove it from one of the two sources"
            )
    return sets
