"""What a suite asks: a prompt that also says what its choices stand for and what figures are averaged within."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cnt_pipeline.prompt_sets.schema import Prompt, prompt_id


@dataclass(frozen=True)
class Item(Prompt):
    """One question of a suite.

    `roles` says what each of `choices` stands for (stereotype, biased, ...), `group` what belongs together in a figure
    (a target term), `condition` under which circumstances it is asked (an ambiguous context). `origin` is the id of the
    plain prompt that it was made from, by which prompts that the study has read before are recognised.
    """

    roles: tuple[str, ...] = ()
    group: str = ""
    condition: str = ""
    origin: str = ""


def item_id(messages: tuple[tuple[str, str], ...], prefix: str, choices: tuple[str, ...]) -> str:
    """16 hex digits, of the choices too: sentences that are compared have no other words."""
    return prompt_id((*messages, *(("choice", choice) for choice in choices)), prefix)


_LISTS = ("answers", "choices", "roles")


def write_items(items: list[Item], path: Path) -> None:
    """Write `items` as Parquet, a row each, in the order given."""
    import polars as pl

    rows = [asdict(item) | {"messages": [{"role": r, "content": c} for r, c in item.messages]} for item in items]
    kinds: dict[str, Any] = {field.name: pl.String for field in fields(Item)}
    kinds |= dict.fromkeys(_LISTS, pl.List(pl.String))
    kinds |= {"row": pl.Int64, "messages": pl.List(pl.Struct({"role": pl.String, "content": pl.String}))}
    pl.DataFrame(rows, schema=kinds).write_parquet(path)


def read_items(path: Path) -> list[Item]:
    """The items of one part, in file order."""
    import polars as pl

    return [
        Item(
            **row
            | {name: tuple(row[name]) for name in _LISTS}
            | {"messages": tuple((turn["role"], turn["content"]) for turn in row["messages"])}
        )
        for row in pl.read_parquet(path, glob=False).iter_rows(named=True)
    ]
