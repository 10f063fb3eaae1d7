"""What several token sequences begin with is read once: a chat template's system message is half of many a prompt."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

_WORTH_SHARING = 8
"""Tokens from which on a common start is read once instead of once a sequence."""


def common_start(sequences: Sequence[Sequence[int]], limit: int) -> int:
    """How many tokens all sequences have in common at their start, at most `limit`."""
    ordered = sorted(map(tuple, sequences))
    first, last = ordered[0], ordered[-1]
    return next((i for i in range(limit) if first[i] != last[i]), limit)


def worth_sharing(model: nn.Module, common: int, copies: int) -> int:
    """How many of the `common` tokens of `copies` sequences to read once: all of them where that pays, else 0.

    Padding may come behind the common start, where a sliding window would count it as text.
    """
    if copies < 2 or common < _WORTH_SHARING or getattr(model.config, "sliding_window", None):
        return 0
    return common


def read_start(model: nn.Module, start: Tensor, copies: int) -> Any:
    """The key-value cache of `start`, `[1, tokens]`, for `copies` sequences; None where there is nothing to read."""
    if not start.numel():
        return None
    cache = model.base_model(input_ids=start, use_cache=True).past_key_values  # type: ignore[operator]
    cache.batch_repeat_interleave(copies)
    return cache
