"""What one model said to one item of a suite."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cnt_pipeline.completions.schema import Completion

Need = Literal["text", "choices", "reference"]
"""What a metric reads of a model: its greedy answer, the choices' likelihoods, that of the reference answer."""


@dataclass(frozen=True)
class Answer(Completion):
    """What one model said to one item; `choice_tokens` counts the tokens of each choice."""

    choice_tokens: tuple[int, ...] = ()


def write_answers(rows: Sequence[Answer], path: Path) -> None:
    """Write `rows` as Parquet in the order given."""
    import polars as pl

    columns: dict[str, Any] = {
        "id": pl.String, "text": pl.String, "token_ids": pl.List(pl.Int32), "finished": pl.Boolean,
        "loglik": pl.Float64, "answer_nll": pl.Float64, "choice_loglik": pl.List(pl.Float64),
        "choice_tokens": pl.List(pl.Int32),
    }  # fmt: skip
    pl.DataFrame([{name: getattr(row, name) for name in columns} for row in rows], schema=columns).write_parquet(path)


def read_answers(path: Path) -> list[Answer]:
    """The answers of one part, in file order."""
    import polars as pl

    lists = ("token_ids", "choice_loglik", "choice_tokens")
    return [
        Answer(**{**row, "variant": 0, **{name: tuple(row[name]) for name in lists}})
        for row in pl.read_parquet(path, glob=False).iter_rows(named=True)
    ]
