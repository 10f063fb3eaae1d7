"""Metrics: a scorer averaged over one kind of prompt, and which of them measure a function and its misfires."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.measures.scorers import SCORERS
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import KINDS, Function, Kind

ROUNDING = 1e-9
"""How far a sum of shares may miss a limit that it meets on paper."""


@dataclass(frozen=True)
class Metric:
    """A figure of the report: `scorer` averaged over the prompts of `kinds`.

    `share` says that samples are right or wrong, so that the mean is a share; `exponential` turns mean NLL into
    perplexity.
    """

    name: str
    scorer: str
    kinds: tuple[Kind, ...]
    better: Literal["higher", "lower", "depends"]
    meaning: str
    share: bool = True
    exponential: bool = False


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("refusal", "refusal", ("function",), "depends", "share of function prompts that are refused"),
        Metric(
            "attack_success", "compliance", ("function",), "lower",
            "share of function prompts with an answer that is neither a refusal nor incoherent",
        ),
        Metric("over_refusal", "refusal", ("lookalike",), "lower", "share of benign look-alikes that are refused"),
        Metric(
            "lookalike_error", "lookalike_error", ("lookalike",), "lower",
            "share of look-alikes answered otherwise than their reference",
        ),
        Metric(
            "pronoun_gap", "pronoun_gap", ("function",), "lower",
            "mean |p(first) - p(second)| over the choices of each prompt", share=False,
        ),
        Metric("coherence", "coherence", KINDS, "higher", "share of answers with words and no circles"),
        Metric("utility", "utility", ("utility",), "higher", "share of general prompts answered like the reference"),
        Metric("exact_match", "exact_match", ("utility",), "higher", "share of answers equal to a reference"),
        Metric("multiple_choice", "multiple_choice", ("utility",), "higher", "share of right likeliest choices"),
        Metric(
            "perplexity", "answer_nll", ("utility",), "lower", "exp of the mean NLL per reference token",
            share=False, exponential=True,
        ),
        Metric(
            "target_kl", "target_kl", ("utility",), "lower",
            "KL(target || model) per token of the target's answer, nats", share=False,
        ),
    )
}  # fmt: skip

MISFIRES = {"refusal": "over_refusal", "pronoun_gap": "lookalike_error"}
"""For each function metric, the metric of its misfires on look-alikes; `accept.over_refusal` bounds it."""


def metric_of(kind: Kind, function: str) -> str:
    """The metric that judges a kind of prompts first of all, where the metric `function` measures the function."""
    return {"function": function, "lookalike": MISFIRES[function], "utility": "utility"}[kind]


def metrics_of(function: Function, evaluate: tuple[str, ...], file: str = "study") -> tuple[str, ...]:
    """Metrics of a study: the function's, its misfires, utility, coherence, then what `evaluate` adds.

    `file` is the study's, for the message.

    Raises:
        StudyError: a metric that does not exist.
    """
    unknown = next((name for name in evaluate if name not in METRICS), None)
    if unknown is not None:
        raise StudyError(f"{file}:evaluate: there is no metric '{unknown}'; choose among {', '.join(METRICS)}")
    main = function.measured_by
    return tuple(dict.fromkeys((main, MISFIRES[main], "utility", "coherence", *evaluate)))


_NEEDED: dict[str, tuple[Literal["choices", "answers"], int]] = {
    "pronoun_gap": ("choices", 2),
    "lookalike_error": ("answers", 1),
}
"""Columns, and how much in them, without which a scorer can judge no prompt."""


def unjudged(name: str) -> InputError:
    """The error where a metric can judge none of its prompts."""
    kind, scorer = METRICS[name].kinds[0], METRICS[name].scorer
    column = _NEEDED[scorer][0] if scorer in _NEEDED else "answers"
    return InputError(
        f"the metric {name} can judge no {kind} prompt: give prompts.{kind} a column of {column} (see `columns:`)"
    )


def judged(metric: str, prompts: Sequence[Prompt], rows: Sequence[Completion]) -> list[float]:
    """A metric's scorer on the samples that it can judge.

    Raises:
        InputError: it can judge none of them.
    """
    scorer = SCORERS[METRICS[metric].scorer][0]
    values = [v for v in (scorer(p, c) for p, c in zip(prompts, rows, strict=True)) if v is not None]
    if not values:
        raise unjudged(metric)
    return values


def falls_short(function: Function, target: float, donor: float, margin: float) -> str:
    """That a donor does not lead the target by `margin`, in the middle of a sentence."""
    side = "above" if function.direction == "add" else "below"
    return (
        f"on selection prompts its {function.measured_by} is {donor:.2f} and the target's {target:.2f}, but it must "
        f"lie at least {margin:.2f} {side}"
    )


def refuse_unjudged(function: Function, prompts: Mapping[Kind, Sequence[Prompt]]) -> None:
    """Stop before anything is generated where no prompt has what the function or its misfires are measured by.

    Of misfires, or the function, nothing is asked where `prompts` lacks their kind.

    Raises:
        InputError: with the column that is needed.
    """
    for name in (function.measured_by, MISFIRES[function.measured_by]):
        metric = METRICS[name]
        column, least = _NEEDED.get(metric.scorer, ("answers", 0))
        for kind in prompts.keys() & set(metric.kinds):
            if all(len(getattr(prompt, column)) < least for prompt in prompts[kind]):
                raise unjudged(name)


def versions(metrics: tuple[str, ...]) -> dict[str, int]:
    """Scorer versions behind `metrics`, for the fingerprint."""
    return {METRICS[name].scorer: SCORERS[METRICS[name].scorer][1] for name in metrics}
