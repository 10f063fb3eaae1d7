"""The table of published prompt sets: where they lie, which columns they have, under which licence."""

from functools import cache
from pathlib import Path

import yaml
from pydantic import Field

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.adapters import PROMPTS
from cnt_pipeline.study.block import Block, Text, is_commit
from cnt_pipeline.study.schema import Columns, PromptSource

TABLE = Path(__file__).with_name("known_sources.yaml")


class KnownSource(Block):
    """A row of the table. A hub row has no revision: whoever reads it names the commit."""

    packaged: Text | None = None
    package: Text | None = None
    file: Text | None = None
    hub: Text | None = None
    config: Text | None = None
    subset: Text = "train"
    rows: Text | None = None
    where: dict[str, str | int | float | bool] = Field({})
    columns: Columns = Columns()
    adapter: Text = PROMPTS
    licence: Text
    paper: Text | None = None
    note: Text | None = None

    @property
    def place(self) -> str:
        """Where it lies, in a few words."""
        if self.hub:
            return " ".join(part for part in (self.hub, self.config, self.subset) if part)
        return f"{self.package}/{self.file}" if self.package else f"packaged {self.packaged}"


@cache
def known_sources() -> dict[str, KnownSource]:
    """The table by name."""
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {name: KnownSource.model_validate(row) for name, row in rows.items()}


def known_source(written: str) -> tuple[KnownSource, PromptSource]:
    """The row `name`, or `name@commit` for a hub dataset, and the source to read.

    Raises:
        InputError: no such row, a hub dataset without its commit, or a commit where there is none.
    """
    name, _, commit = written.partition("@")
    row = known_sources().get(name)
    if row is None:
        raise InputError(
            f"there is no source '{name}' in the table; `cnt suites` lists them, study.<kind> names the study's own "
            "test prompts, and any other source is written out as under `prompts:`"
        )
    if row.hub and not is_commit(commit):
        raise InputError(
            f"the source {name} is the hub dataset {row.hub}, which can move: write {name}@ and the full 40-digit "
            "commit hash to read (on its page under Files, History)"
        )
    if commit and not row.hub:
        raise InputError(f"the source {name} is no hub dataset and has no commit: write {name} alone")
    read = row.model_dump(exclude={"adapter", "licence", "paper", "note"}, exclude_defaults=True)
    return row, PromptSource.model_validate({**read, **({"revision": commit} if row.hub else {})})
