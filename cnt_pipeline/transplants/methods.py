"""The method table. A method is data: which probes it reads, how it scores, selects and edits, and how sure we
are of it.

To add one, add a row; at most it needs a scoring rule in `neuron_rankings/sql/` or a selection in
`transplants/select/`.
"""

from dataclasses import dataclass
from typing import Literal

from cnt_pipeline.errors import StudyError
from cnt_pipeline.study.schema import Method


@dataclass(frozen=True)
class MethodRow:
    """One method. `grade` says how its source is known (methods.md): A read, B reimplemented, C second-hand, I ours."""

    name: str
    effect: Literal["path", "gradient"]
    rule: str
    selection: Literal["bisect", "top_k", "top_fraction"]
    edit: str
    grade: Literal["A", "B", "C", "I"]
    source: str
    words: str


METHODS: dict[str, MethodRow] = {
    row.name: row
    for row in (
        MethodRow(
            name="cnt",
            effect="path",
            rule="effect",
            selection="bisect",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449",
            words=(
                "Score every neuron by how much swapping it for the donor's, averaged along the path from target to "
                "donor, lowers the loss of the donor's answers against the target's; subtract what it adds on "
                "look-alikes and what it damages; copy the smallest top set that carries the function. The goal and "
                "the metrics are the paper's; score and search are our reconstruction."
            ),
        ),
        MethodRow(
            name="cnt_gradient",
            effect="gradient",
            rule="effect",
            selection="bisect",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449",
            words="As cnt, with the first-order effect at the target alone: one pass instead of one per node.",
        ),
    )
}


@dataclass(frozen=True)
class ResolvedMethod:
    """A table row with the study's overrides."""

    row: MethodRow
    effect: Literal["path", "gradient"]
    selection: Literal["bisect", "top_k", "top_fraction"]


def resolve(method: Method, file: str = "study") -> ResolvedMethod:
    """The method that a study asks for.

    Raises:
        StudyError: the table has no such method.
    """
    row = METHODS.get(method.name)
    if row is None:
        raise StudyError(f"{file}:method.name: there is no method '{method.name}'; choose one of {', '.join(METHODS)}")
    return ResolvedMethod(row, method.effect or row.effect, method.selection or row.selection)
