"""What a prompt is, and how prompt files are written and read."""

import hashlib
import json
import unicodedata
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from cnt_pipeline.study.schema import KINDS, SPLITS, TRAIN, Kind, Split

Role = tuple[Split, Kind]


@dataclass(frozen=True)
class Prompt:
    """One prompt with its reference answers.

    `messages` is the conversation up to the assistant's turn, as (role, content) pairs; `prefix` is the start of the
    answer that every model is given; `choices` are continuations compared by likelihood; `answers` are matched with
    what a model says, while `reference`, a good answer in free text, only has its likelihood measured.
    """

    id: str
    messages: tuple[tuple[str, str], ...]
    prefix: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    source: str = ""
    row: int = 0
    reference: str = ""

    @property
    def first_answer(self) -> str:
        """The answer whose likelihood is measured: the reference, else the first of `answers`; "" without either."""
        return self.reference or next(iter(self.answers), "")

    @property
    def text(self) -> str:
        """The last user message, for people."""
        return self.messages[-1][1]

    @property
    def by_choice(self) -> bool:
        """Whether it is a question whose right answer is one of the choices: the likelihoods of these say it all."""
        return bool(self.choices and self.answers)


def prompt_id(messages: tuple[tuple[str, str], ...], prefix: str) -> str:
    """16 hex digits of what makes two prompts the same: roles and words, whatever their case and spacing."""
    words = [[role, _words(content)] for role, content in messages]
    return hashlib.sha256(json.dumps([words, _words(prefix)]).encode()).hexdigest()[:16]


def _words(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def roles_of(taught: Collection[Kind]) -> list[Role]:
    """The nine roles on which models are compared, and a train role for each kind that a recipe teaches."""
    return [(split, kind) for split in SPLITS for kind in KINDS] + [(TRAIN, kind) for kind in KINDS if kind in taught]


def file_name(split: Split, kind: Kind) -> str:
    """Name of a role's file in the prompt-set artifact."""
    return f"{split}.{kind}.parquet"


def write_prompts(prompts: list[Prompt], path: Path, split: Split, kind: Kind) -> None:
    """Write `prompts` as Parquet, a row each, in the order given."""
    import polars as pl

    rows = [
        asdict(p) | {"messages": [{"role": r, "content": c} for r, c in p.messages], "text": p.text} for p in prompts
    ]
    frame = pl.DataFrame(
        rows,
        schema={
            "id": pl.String,
            "text": pl.String,
            "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String})),
            "prefix": pl.String,
            "answers": pl.List(pl.String),
            "reference": pl.String,
            "choices": pl.List(pl.String),
            "source": pl.String,
            "row": pl.Int64,
        },
    )
    frame.with_columns(pl.lit(split).alias("split"), pl.lit(kind).alias("kind")).write_parquet(path)


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of one role, in file order."""
    import polars as pl

    return [
        Prompt(
            id=row["id"],
            messages=tuple((m["role"], m["content"]) for m in row["messages"]),
            prefix=row["prefix"],
            answers=tuple(row["answers"]),
            reference=row["reference"],
            choices=tuple(row["choices"]),
            source=row["source"],
            row=row["row"],
        )
        for row in pl.read_parquet(path, glob=False).iter_rows(named=True)
    ]
