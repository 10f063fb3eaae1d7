"""What a neuron is scored by: the loss of every prompt, made of the two models' own answers (methods section 1)."""

from collections.abc import Sequence

from cnt_pipeline.activation_caches.probes.effect import Objective
from cnt_pipeline.completions.build import EncodedSet
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.study.schema import Kind

OBJECTIVES: dict[str, tuple[Kind, ...]] = {
    "transfer": ("function",), "misfire": ("lookalike",), "keep": ("lookalike", "utility")
}  # fmt: skip
"""The kinds of prompts that each objective is about."""


def objectives_of(
    objective: str, encoded: EncodedSet, target_rows: Sequence[Completion], donated: Sequence[Completion]
) -> list[Objective]:
    """The loss of every prompt of a set; `donated` are the donor's answers to function prompts (not read by `keep`).

    transfer  NLL(donor's answer) - NLL(target's answer)
    misfire   NLL(an answer of the donor to a function prompt) - NLL(target's answer), on look-alikes
    keep      NLL(target's answer)
    """
    kept = [answered(tokens, row) for tokens, row in zip(encoded.tokens, target_rows, strict=True)]
    if objective == "keep":
        return [Objective(((example, 1.0),)) for example in kept]
    wanted = [answered(tokens, donated[i % len(donated)]) for i, tokens in enumerate(encoded.tokens)]
    return [Objective(((new, 1.0), (old, -1.0))) for new, old in zip(wanted, kept, strict=True)]


def answered(prompt: tuple[int, ...], row: Completion) -> Example:
    """A prompt with a model's answer to it, which is what is scored."""
    return Example(prompt + row.token_ids, len(prompt))
