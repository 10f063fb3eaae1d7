"""The methods that edit weight matrices, and what a study's leaderboard asks of them. Needs no torch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.study.block import Block
from cnt_pipeline.study.schema import Compared, Study
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.rows import entries, fgsn, merging, neurons, nlsr

EDITS: dict[str, EditRow] = {
    row.name: row for rows in (nlsr.ROWS, fgsn.ROWS, entries.ROWS, neurons.ROWS, merging.ROWS) for row in rows
}
"""By name."""


@dataclass(frozen=True)
class ResolvedEdit:
    """A table row with an entry's options, once for every seed; `key` is what its steps and completions are called."""

    row: EditRow
    label: str
    options: Block
    seed: int
    key: str

    @property
    def probes(self) -> tuple[str, ...]:
        """What it reads of activations or gradients, as `<probe>/<model>`."""
        return self.row.reads(self.options)

    @property
    def slice(self) -> dict[str, Any]:
        """What its fingerprint holds beside its inputs; the method's version from the second on."""
        version = {"version": self.row.version} if self.row.version > 1 else {}
        return {"method": self.row.name, "options": self.options.model_dump(mode="json"), "seed": self.seed, **version}


def resolve_edits(study: Study) -> tuple[ResolvedEdit, ...]:
    """The edits that a study's leaderboard asks for, in the order written, each seed by itself.

    Raises:
        StudyError: no such method, an option that it has not or that is out of its limits, a model that it needs and
            the study has not, or dimensions that no method works through.
    """
    found = tuple(edit for number, entry in enumerate(study.compare.methods) for edit in _resolve(study, entry, number))
    if study.compare.dimensions and found and not any(edit.row.continual for edit in found):
        able = " or ".join(row.name for row in EDITS.values() if row.continual)
        raise StudyError(
            f"{study.file}:compare.dimensions: no method listed works through safety dimensions; add {able} to "
            "`methods:`, or remove the dimensions"
        )
    return found


def _resolve(study: Study, entry: Compared, number: int) -> Iterator[ResolvedEdit]:
    place = f"{study.file}:compare.methods[{number}]"
    row = EDITS.get(entry.method)
    if row is None:
        raise StudyError(
            f"{place}: there is no method '{entry.method}' to compare with the study's own; choose among "
            f"{', '.join(EDITS)}"
        )
    missing = next((model for model in row.needs if model not in study.models.named()), None)
    if missing is not None:
        raise StudyError(
            f"{place}: {row.name} reads the model before alignment; add it as `{missing}:` under `models:`"
        )
    try:
        options = row.options.model_validate(entry.options)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        known = ", ".join(row.options.model_fields) or "none"
        raise StudyError(
            f"{place}.options{'.' + option if option else ''}: {first['msg'].removeprefix('Value error, ')}; "
            f"{row.name} has {known} (`cnt methods {row.name}`)"
        ) from None
    for seed in entry.seeds:
        key = entry.label if len(entry.seeds) == 1 else f"{entry.label}-s{seed}"
        yield ResolvedEdit(row, entry.label, options, seed, key)
