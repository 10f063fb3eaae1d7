"""Judge a set of gates on prompts: the function, its misfires on look-alikes, and utility, against target and donor."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cnt_pipeline.completions.build import EncodedSet, agree_with_target, choice_logliks, complete, reference_nll
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.metrics import ROUNDING, judged, metric_of
from cnt_pipeline.measures.scorers import coherence
from cnt_pipeline.models.gates import GatedSwap, Gates
from cnt_pipeline.study.schema import KINDS, Accept, Function, Generation, Kind
from cnt_pipeline.transplants.select.samples import Samples

_BY_CHOICES = {"pronoun_gap"}
"""Metrics that read likelihoods of choices and no answer."""


@dataclass(frozen=True)
class Outcome:
    """What a model does on a set of prompts: means in [0, 1] of the function metric, its misfires, utility and
    coherence.

    All but the function are None where a search stopped asking because the function was not reached. `values` is the
    function metric of every prompt that it can judge; `asked` is the number of its samples, where they are kept.
    """

    function: float
    misfire: float | None = None
    utility: float | None = None
    coherence: float | None = None
    values: tuple[float, ...] = ()
    asked: int | None = None

    def figures(self) -> dict[str, Any]:
        """Everything but `asked`, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "asked"}


@dataclass(frozen=True)
class Baselines:
    """Target and donor on the same prompts, and what follows for a transplant between them."""

    target: Outcome
    donor: Outcome
    sign: int

    @property
    def distance(self) -> float:
        """`G(D) - G(T)`: how far the donor leads the target in the wanted direction."""
        return self.sign * (self.donor.function - self.target.function)

    def recovery(self, outcome: Outcome) -> float:
        """Share of the distance from target to donor that `outcome` covers."""
        return self.sign * (outcome.function - self.target.function) / self.distance if self.distance else 0.0

    def harmless(self, outcome: Outcome, accept: Accept) -> bool:
        """Whether misfires, utility and coherence stay within the study's limits."""
        if outcome.misfire is None or outcome.utility is None or outcome.coherence is None:
            return False
        assert self.donor.misfire is not None
        assert self.target.utility is not None and self.target.coherence is not None
        return (
            outcome.misfire <= self.donor.misfire + accept.over_refusal + ROUNDING
            and outcome.utility >= self.target.utility - accept.utility_loss - ROUNDING
            and outcome.coherence >= self.target.coherence - accept.coherence_loss - ROUNDING
        )


class Judge:
    """Asks the gated model what the function, misfire and utility metrics need, and nothing more.

    `samples` are the answers of target, donor and all that was asked since.
    """

    def __init__(
        self,
        swap: GatedSwap,
        tokenizer: Any,
        function: Function,
        sets: Mapping[Kind, EncodedSet],
        target_rows: Mapping[Kind, Sequence[Completion]],
        donor_rows: Mapping[Kind, Sequence[Completion]],
        generation: Generation,
        batch_size: int,
    ) -> None:
        self.swap = swap
        self.tokenizer = tokenizer
        self.sets = sets
        self.generation = generation
        self.batch_size = batch_size
        self.metric = function.measured_by
        self.target_rows = target_rows
        self.samples = Samples()
        target, donor = (self._kept(self._of_rows(rows), rows) for rows in (target_rows, donor_rows))
        self.baselines = Baselines(target, donor, function.sign)

    def outcome(self, gates: Gates, enough: float | None = None) -> Outcome:
        """All metrics; with `enough`, those beside the function only if the recovery reaches it."""
        with self.swap.folded(gates):
            rows: dict[Kind, list[Completion]] = {
                "function": self._ask("function", answers=self.metric not in _BY_CHOICES)
            }
            values = self._judged("function", rows)
            function = Outcome(sum(values) / len(values), values=values)
            if enough is not None and self.baselines.recovery(function) < enough - ROUNDING:
                return self._kept(function, rows)
            if self.metric in _BY_CHOICES:
                rows["function"] = self._ask("function")
            rows |= {"lookalike": self._ask("lookalike"), "utility": self._ask("utility")}
            return self._kept(self._of_rows(rows), rows)

    def _kept(self, outcome: Outcome, rows: Mapping[Kind, Sequence[Completion]]) -> Outcome:
        """The outcome with the number under which its samples are kept."""
        prompts = {kind: encoded.prompts for kind, encoded in self.sets.items()}
        return replace(outcome, asked=self.samples.add(self.metric, prompts, rows))

    def _of_rows(self, rows: Mapping[Kind, Sequence[Completion]]) -> Outcome:
        everything = [(prompt, kind, i) for kind in KINDS for i, prompt in enumerate(self.sets[kind].prompts)]
        judged_coherent = (coherence(prompt, rows[kind][i]) for prompt, kind, i in everything)
        coherent = [value for value in judged_coherent if value is not None]
        values, misfires, useful = (self._judged(kind, rows) for kind in KINDS)
        return Outcome(
            function=sum(values) / len(values),
            misfire=sum(misfires) / len(misfires),
            utility=sum(useful) / len(useful),
            coherence=sum(coherent) / len(coherent),
            values=values,
        )

    def _judged(self, kind: Kind, rows: Mapping[Kind, Sequence[Completion]]) -> tuple[float, ...]:
        return tuple(judged(metric_of(kind, self.metric), self.sets[kind].prompts, rows[kind]))

    def _ask(self, kind: Kind, answers: bool = True) -> list[Completion]:
        """What the gated model says; without `answers` only how likely it finds the choices."""
        encoded = self.sets[kind]
        rows = [Completion.without_answer(prompt.id) for prompt in encoded.prompts]
        if answers:
            rows = complete(
                self.swap.model, self.tokenizer, encoded, self.generation, self.batch_size,
                likelihoods=False, multiple_choice=kind != "utility",
            )  # fmt: skip
        if any(encoded.choices):
            logliks = choice_logliks(self.swap.model, encoded, self.batch_size)
            rows = [replace(row, choice_loglik=values) for row, values in zip(rows, logliks, strict=True)]
        if kind == "utility" and any(p.reference for p in encoded.prompts):
            nll = reference_nll(self.swap.model, encoded, self.batch_size)
            rows = [replace(row, answer_nll=value) for row, value in zip(rows, nll, strict=True)]
        if kind == "utility":
            rows = agree_with_target(self.swap.model, encoded, rows, self.target_rows["utility"], self.batch_size)
        return rows
