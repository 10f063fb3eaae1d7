"""What the choices of a prompt are compared by: one quantity for the scorer that picks and the report that shows."""

import math
from collections.abc import Sequence
from typing import Literal

from cnt_pipeline.completions.answers import Answer
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt

By = Literal["whole", "character", "byte", "token"]
"""A choice counts as a whole, or with the mean over its characters, bytes or tokens."""


def compared(by: By, prompt: Prompt, completion: Completion) -> list[float]:
    """Log-likelihood of each choice in nats, as a whole or divided by its length, as given: it may not be finite."""
    logliks = completion.choice_loglik
    if by == "whole":
        return list(logliks)
    return [loglik / length for loglik, length in zip(logliks, _lengths(by, prompt, completion), strict=True)]


def _lengths(by: By, prompt: Prompt, completion: Completion) -> Sequence[int]:
    if by == "token":
        assert isinstance(completion, Answer)
        return completion.choice_tokens
    texts = [choice.strip() for choice in prompt.choices]
    return [max(len(text if by == "character" else text.encode()), 1) for text in texts]


def chances(by: By, prompt: Prompt, completion: Completion) -> list[float]:
    """The same as probabilities: of each choice among those listed, which sum to 1, or the geometric mean over a
    choice's characters, bytes or tokens."""
    values = compared(by, prompt, completion)
    return softmax(values) if by == "whole" else [math.exp(value) for value in values]


def softmax(logliks: Sequence[float]) -> list[float]:
    """Probabilities over the listed choices only."""
    top = max(logliks)
    weights = [math.exp(value - top) for value in logliks]
    return [weight / sum(weights) for weight in weights]
