"""NTRR: how far the donor's best neurons bring the target at a fixed budget (methods section 1, [I]).

    NTRR_b = (G(T with the best b of D) - G(T)) / (G(D) - G(T))

The published diagnostic of this name for choosing a donor was never expanded: this definition is ours. Needs no torch
until the gated model is asked.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.intervals import CONFIDENCE, RESAMPLES, Estimate
from cnt_pipeline.measures.metrics import ROUNDING, falls_short, judged
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Accept, Function

if TYPE_CHECKING:
    from cnt_pipeline.transplants.select.candidates import Indices, Space
    from cnt_pipeline.transplants.select.judge import Judge

BUDGET = 0.0024
"""Share of all parameters that move: the largest budget of the published transfers."""
FILE = "ntrr.json"


@dataclass(frozen=True)
class Lead:
    """Means of the function metric on selection prompts; `distance` is `G(D) - G(T)`."""

    target: float
    donor: float
    distance: float

    def admits(self, accept: Accept) -> bool:
        """Whether the donor leads by the study's margin."""
        return self.distance >= accept.donor_margin - ROUNDING


def lead_of(
    function: Function, prompts: Sequence[Prompt], target: Sequence[Completion], donor: Sequence[Completion]
) -> Lead:
    """How far a donor leads the target on the prompts that the metric can judge."""
    means = [float(np.mean(judged(function.measured_by, prompts, rows))) for rows in (target, donor)]
    return Lead(means[0], means[1], function.sign * (means[1] - means[0]))


def inadmissible(lead: Lead, function: Function, accept: Accept) -> str:
    """Why a donor is not admitted, in a sentence."""
    return f"not admissible: {falls_short(function, lead.target, lead.donor, accept.donor_margin)}"


def recovered(sign: int, target: Sequence[float], donor: Sequence[float], new: Sequence[float], seed: int) -> Estimate:
    """The share of the distance that is covered, with a paired bootstrap interval over prompts.

    Every resample draws prompts and takes all three models' values on them; `[prompts]` each, in one order.
    """
    ours, theirs, moved = (np.asarray(values, dtype=np.float64) for values in (target, donor, new))
    draws = np.random.default_rng(seed).integers(len(ours), size=(RESAMPLES, len(ours)))
    gain = (sign * (moved - ours))[draws].mean(1)
    distance = (sign * (theirs - ours))[draws].mean(1)
    # A resample in which the donor leads by nothing has no share to speak of.
    shares = gain[distance > 0] / distance[distance > 0]
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    value = sign * float((moved - ours).mean()) / (sign * float((theirs - ours).mean()))
    return Estimate(value, float(low), float(high), len(ours))


def write_ntrr(
    judge: "Judge",
    space: "Space",
    order: "Indices",
    share: float,
    seed: int,
    folder: Path,
) -> Mapping[str, Any]:
    """Write and return `ntrr.json`: plain copies of the best of `order` within `share` of all parameters."""
    from cnt_pipeline.models.teacher import device_of

    chosen = space.top_within(order, round(share * space.total_parameters))
    outcome, baselines = judge.outcome(space.gates(chosen, 1.0, device_of(judge.swap.model))), judge.baselines
    parameters = space.parameters(chosen)
    document = {
        "budget": share,
        "neurons": len(chosen),
        "parameters": parameters,
        "share": parameters / space.total_parameters,
        "ntrr": recovered(
            baselines.sign, baselines.target.values, baselines.donor.values, outcome.values, seed
        )._asdict(),
        "target": baselines.target.figures(),
        "donor": baselines.donor.figures(),
        "transplant": outcome.figures(),
    }
    (folder / FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document
