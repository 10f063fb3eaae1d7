"""The choices of a sample with what its metrics compare them by, so that a reader sees which one was picked."""

from collections.abc import Iterable, Mapping

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.harness import COMPARES as OF_TASKS
from cnt_pipeline.measures.choices import By, chances
from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.measures.scorers import COMPARES
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import words

_BY: Mapping[str, By | None] = {
    **OF_TASKS,
    **{name: COMPARES.get(metric.scorer) for name, metric in METRICS.items()},
    **{name: metric.compares for name, metric in SUITE_METRICS.items()},
}
"""By what every metric compares choices; a task's may have a filter in brackets behind its name."""
_MOST_DIGITS = 4


def told_choices(prompt: Prompt, row: Completion, metrics: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Every choice of a prompt with what `metrics` compare it by, as percentages; empty without likelihoods.

    Where none of them compares choices, that is their probability among the choices listed.
    """
    if not row.choice_loglik:
        return ()
    found: dict[By, None] = dict.fromkeys(by for metric in metrics if (by := _BY.get(metric.partition(" ")[0])))
    each = [_told(by, prompt, row) for by in found] or [_told("whole", prompt, row)]
    return tuple((choice.strip(), ", ".join(told)) for choice, *told in zip(prompt.choices, *each, strict=True))


def _told(by: By, prompt: Prompt, row: Completion) -> list[str]:
    """Percentages with as many decimals as tell the two likeliest choices apart."""
    values = chances(by, prompt, row)
    first, second = sorted(values, reverse=True)[:2] if len(values) > 1 else (0.0, 0.0)
    apart = (d for d in range(_MOST_DIGITS) if words.percent(first, d) != words.percent(second, d))
    digits = 0 if first == second else next(apart, _MOST_DIGITS)
    unit = "" if by == "whole" else f" per {by}"
    return [f"{words.percent(value, digits)}{unit}" for value in values]
