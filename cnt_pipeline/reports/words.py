"""Figures and names as a reader sees them. A figure that does not exist is a dash, never a zero."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cnt_pipeline.measures.metrics import METRICS
from cnt_pipeline.study.schema import Function

NONE = "–"
SPACE = "\u00a0"
"""Between a figure and its unit: no line breaks there."""

SHARES = frozenset(
    {
        "refusal",
        "attack_success",
        "over_refusal",
        "lookalike_error",
        "coherence",
        "utility",
        "exact_match",
        "multiple_choice",
    }
)
"""Metrics that are shares of samples: shown as percentages, their differences as percentage points."""

METRIC_NAMES = {
    "over_refusal": "over-refusal",
    "lookalike_error": "look-alike error",
    "target_kl": "KL to the target",
}
"""Where the name is not simply the key with spaces."""

SUBJECT_NAMES = {
    "target": "Target (before)",
    "transplant": "Transplant (after)",
    "donor": "Whole donor (reference)",
    "control_random": "Control: random neurons",
    "control_largest_delta": "Control: largest delta",
}

CALLED = {
    "target": "the target",
    "transplant": "the transplant",
    "donor": "the donor",
    "control_random": "random neurons",
    "control_largest_delta": "the neurons of the largest delta",
}
"""Subjects in a sentence."""

YES = {
    "refusal": "refused",
    "over_refusal": "refused",
    "attack_success": "answered",
    "coherence": "coherent",
    "utility": "as the reference",
    "exact_match": "as a reference",
    "multiple_choice": "right",
    "lookalike_error": "other than the reference",
    "crows_pairs": "with the stereotype likelier",
    "bbq_accuracy_ambiguous": "right",
    "bbq_accuracy_disambiguated": "right",
    "last_number": "right",
    "contains_answer": "with a reference in them",
}
"""What a sample is that counts as 1."""

SERIES_NAMES = {
    "transplant": "this transplant",
    "random": "random neurons",
    "largest_delta": "neurons of the largest delta",
    "whole_donor": "the whole donor",
    "trials": "candidates of the search",
}

NOT_REACHED = "not reached"

QUESTIONS = {
    "admissible": "Does the donor have what the target lacks?",
    "effect_reached": "Does the transplant carry the function?",
    "lookalikes_kept": "Does it leave benign look-alikes alone?",
    "utility_kept": "Is it as useful as before?",
    "coherence_kept": "Do its answers stay coherent?",
    "control_random_beaten": "Does it beat random neurons of the same budget?",
    "control_largest_delta_beaten": "Does it beat the most changed neurons of the same budget?",
    "nothing_else_changed": "Is everything outside the plan untouched?",
}

SELECTIONS = {
    "bisect": "The search (bisect) doubled the budget until the function was reached, halved the interval, then "
    "dropped what was not needed.",
    "top_k": "A fixed number of neurons was taken (top_k).",
    "top_fraction": "A fixed share of all parameters was taken (top_fraction).",
    "refine": "The search (refine) measured the effects anew among the neurons that were left, and dropped the weakest "
    "while the function held.",
    "mask": "The search (mask) trained a gate for every neuron, weights frozen, at a rising price for open gates, and "
    "took the neurons whose gates stayed open.",
    "prune": "The search (prune) trained amplitudes for the best neurons, weights frozen, and dropped those that did "
    "least, down to its budget.",
}
"""How the neurons were chosen, by the selection's name."""

KINDS = {"function": "function", "lookalike": "look-alike", "utility": "general"}
"""Kinds of prompts before the word prompts."""

CHOICES = (
    "A percentage beside a choice is what the metric compares: the likelihood of the whole choice, as a share of that "
    "of all choices listed; where it says per character, per byte or per token, the geometric mean likelihood of those "
    "of the choice, so that a long choice is not behind for its length."
)
"""What stands beside a choice of a listed sample."""

UNITS = {"row": "single neurons", "ffn_channel": "whole FFN channels", "head": "whole attention heads"}

GRADES = {
    "A": "read in the paper or its authors' code",
    "B": "known from peer review or from a reimplementation that cites the equations",
    "C": "known from a second-hand summary only",
    "I": "our own reconstruction: do not cite it as the paper's algorithm",
}

_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2060\u2066-\u2069\ufeff]")

FAMILIES = ("q", "k", "v", "o", "gate", "up", "down")
"""Families in the order in which a layer computes; others follow by name."""


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage with `digits` decimals."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{_fixed(100 * value, digits)}{SPACE}%"


def share(value: float) -> str:
    """A share of parameters: two significant digits below 1 %, else two decimals."""
    digits = 1 - math.floor(math.log10(100 * value)) if 0 < value < 0.01 else 2
    return percent(value, digits)


def number(value: float | None, digits: int = 3) -> str:
    """A plain figure: an integer with separators, else `digits` decimals."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,}" if isinstance(value, int) else _fixed(value, digits)


def setting(value: float) -> str:
    """A chosen number as a user would write it: 1, 0.5."""
    return f"{value:g}"


def amplitude(value: float | None) -> str:
    """A setting that a candidate may not have as one number, such as eta where every neuron has its own."""
    return NONE if value is None else setting(value)


def points(value: float) -> str:
    """A limit in percentage points, from a share."""
    return f"{100 * value:g} point{'' if round(100 * value, 9) == 1 else 's'}"


def amount(metric: str, value: float | None) -> str:
    """A metric's value in its unit."""
    return percent(value) if metric in SHARES else number(value, _scale(metric)[1])


def difference(metric: str, value: float | None) -> str:
    """A signed difference as a bare figure, in `difference_unit`."""
    if value is None or not math.isfinite(value):
        return NONE
    scale, digits = _scale(metric)
    return _signed(scale * value, digits)


def difference_unit(metric: str) -> str:
    """What differences are counted in; empty for a metric without a unit."""
    return "points" if metric in SHARES else "nats" if is_nats(metric) else ""


def change(metric: str, value: float | None) -> str:
    """A signed difference with its unit."""
    return f"{difference(metric, value)}{SPACE}{difference_unit(metric)}".rstrip()


def is_nats(metric: str) -> bool:
    """Whether differences in the metric are differences of a mean NLL or a KL."""
    return metric == "target_kl" or (metric in METRICS and METRICS[metric].exponential)


def interval(metric: str, low: float | None, high: float | None, signed: bool = False) -> str:
    """Both bounds in the unit of the value they bound, without repeating it; empty where there are none."""
    if low is None or high is None:
        return ""
    if signed and low == high:
        return "on every prompt"
    scale, digits = _scale(metric)
    text = _signed if signed else _fixed
    return f"{text(scale * low, digits)} to {text(scale * high, digits)}"


def metric_name(metric: str) -> str:
    """A metric's name as words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def metric_meaning(metric: str) -> str:
    """What a metric measures, from the metric table."""
    return METRICS[metric].meaning if metric in METRICS else ""


def wanted(metric: str, function: Function) -> str:
    """Which way the metric is better in this study."""
    if metric == function.measured_by:
        return "higher is better" if function.direction == "add" else "lower is better"
    better = METRICS[metric].better if metric in METRICS else "depends"
    return "" if better == "depends" else f"{better} is better"


def check_figures(check: Mapping[str, Any], metric: str, misfire: str) -> tuple[str, str]:
    """A gate's figure and its limit in words, with the side on which it passes."""
    value, limit, name = check["value"], check["limit"], check["name"]
    if value is None or limit is None:
        return NONE, "every byte as planned" if name == "nothing_else_changed" else NONE
    if name == "effect_reached":
        return percent(value), f"at least {percent(limit)}"
    if name == "admissible":
        return change(metric, value), f"at least {change(metric, limit)}"
    if name == "lookalikes_kept":
        return change(misfire, value), f"at most {change(misfire, limit)}"
    if name in ("utility_kept", "coherence_kept"):
        lost = name.removesuffix("_kept")
        return change(lost, -value), f"at least {change(lost, -limit)}"
    return change(metric, value), "whole interval above 0"


def family_order(family: str) -> tuple[int, str]:
    """Sort key for families."""
    return (FAMILIES.index(family) if family in FAMILIES else len(FAMILIES), family)


def _scale(metric: str) -> tuple[int, int]:
    """Factor and decimals of a metric's bounds and differences."""
    return (100, 1) if metric in SHARES else (1, 4 if is_nats(metric) else 3)


def listed(parts: Sequence[str]) -> str:
    """Parts as a list in a sentence."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def sentence(text: str) -> str:
    """`text` with a capital first letter."""
    return text[:1].upper() + text[1:]


def visible(text: str) -> str:
    """`text` with the characters that a reader cannot see or that turn text around told by their number.

    Control characters but line ends and tabs, and the marks that embed, override or isolate a direction (Unicode 9,
    UAX 9); a reviewer must see what a model was given and what it said.
    """
    return _UNSEEN.sub(lambda found: f"‹U+{ord(found[0]):04X}›", text)


def _fixed(value: float, digits: int) -> str:
    """Fixed decimals with a minus sign, never on a zero."""
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def _signed(value: float, digits: int) -> str:
    return ("+" if round(value, digits) > 0 else "") + _fixed(value, digits)
