"""The method table. A method is data: which probes it reads, how it scores, selects and edits, and how sure we
are of it.

To add one, add a row; at most it needs a scoring rule in `neuron_rankings/sql/` or a selection in
`transplants/select/`.
"""

from dataclasses import dataclass
from typing import Literal

from cnt_pipeline.errors import StudyError
from cnt_pipeline.study.schema import Effect, Method, Selection


@dataclass(frozen=True)
class MethodRow:
    """One method. `grade` says how its source is known (methods.md): A read, B reimplemented, C second-hand, I ours."""

    name: str
    effect: Effect
    rule: str
    selection: Selection
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
        MethodRow(
            name="cnt_contrast",
            effect="contrast",
            rule="contrast",
            selection="bisect",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449, 2406.14144",
            words=(
                "As cnt, with neurons scored by how much their activation differs between the two models on the "
                "donor's answers (the safety-neuron change score, itself grade A): no look-alike effect, no damage."
            ),
        ),
        MethodRow(
            name="cnt_refine",
            effect="path",
            rule="effect",
            selection="refine",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449",
            words=(
                "As cnt, then score again inside the set that was found, along the path to that set alone, and drop "
                "what the others make superfluous, round by round while the function holds."
            ),
        ),
        MethodRow(
            name="cnt_mask",
            effect="path",
            rule="effect",
            selection="mask",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449",
            words=(
                "Learn one gate per candidate neuron under a rising price of its parameters, every weight frozen; "
                "then copy the smallest set, in the order of the learned gates, that carries the function."
            ),
        ),
        MethodRow(
            name="cnt_prune",
            effect="path",
            rule="effect",
            selection="prune",
            edit="copy",
            grade="I",
            source="arXiv 2603.18449",
            words=(
                "Beyond the paper: learn an amplitude for each of the best candidates and drop the least important by "
                "turns down to a budget, every weight frozen; the few that stay move by their amplitude times the "
                "difference between donor and target."
            ),
        ),
    )
}


LEARNING: frozenset[Selection] = frozenset({"mask", "prune"})
"""Selection rules that learn gates."""
READS_SCORING: frozenset[Selection] = LEARNING | {"refine"}
"""Selection rules that read the scoring prompts and both models' answers to them."""


@dataclass(frozen=True)
class ResolvedMethod:
    """A table row with the study's overrides."""

    row: MethodRow
    effect: Effect
    selection: Selection


def resolve(method: Method, file: str = "study") -> ResolvedMethod:
    """The method that a study asks for.

    Raises:
        StudyError: the table has no such method, or the study sets what it has no use for.
    """
    row = METHODS.get(method.name)
    if row is None:
        raise StudyError(f"{file}:method.name: there is no method '{method.name}'; choose one of {', '.join(METHODS)}")
    resolved = ResolvedMethod(row, method.effect or row.effect, method.selection or row.selection)
    if resolved.selection == "prune" and "eta" in method.model_fields_set:
        raise StudyError(
            f"{file}:method.eta: prune learns an amplitude for every neuron; leave eta out, or bound the amplitudes by "
            "method.learn.limit"
        )
    if resolved.effect == "contrast":
        _refuse_weights(method, file)
        if resolved.selection == "refine":
            raise StudyError(
                f"{file}:method.selection: refine scores again by the effect on the loss, which contrast does not "
                "measure; take effect path, or another selection"
            )
    return resolved


def _refuse_weights(method: Method, file: str) -> None:
    """A contrast has no look-alike effect and no damage to weigh."""
    written = method.model_fields_set
    if "lookalike_weight" in written and any(method.lookalike_weight):
        raise StudyError(f"{file}:method.lambda: a contrast has no look-alike effect; leave lambda out or write [0]")
    if "damage_weight" in written and method.damage_weight:
        raise StudyError(f"{file}:method.mu: the contrast has no damage to weigh; leave mu out or set it to 0")
