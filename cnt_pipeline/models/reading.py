"""Read prompts once: a key-value cache from which answers are generated and continuations are compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cnt_pipeline.models.common_start import common_start, read_start, worth_sharing
from cnt_pipeline.models.teacher import device_of, pad_of


@dataclass(frozen=True)
class Read:
    """Prompts that a model has read: logits `[prompts, vocabulary]` of the next token, the cache, and which of its
    positions hold text, `[prompts, tokens]`."""

    logits: Tensor
    cache: Any
    mask: Tensor


def read_prompts(model: nn.Module, prompts: Sequence[Sequence[int]]) -> Read:
    """Read a batch of prompts, padded on the left (behind what all have in common)."""
    device = device_of(model)
    shared = worth_sharing(model, common_start(prompts, min(map(len, prompts)) - 1), len(prompts))
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_of(model), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        rest = prompt[shared:]
        ids[row, :shared], mask[row, :shared] = torch.tensor(prompt[:shared], dtype=torch.long), 1
        ids[row, width - len(rest) :], mask[row, width - len(rest) :] = torch.tensor(rest), 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    out = model(
        input_ids=ids[:, shared:], attention_mask=mask, position_ids=positions[:, shared:],
        past_key_values=read_start(model, ids[:1, :shared], len(prompts)), use_cache=True, logits_to_keep=1,
    )  # fmt: skip
    return Read(out.logits[:, -1], out.past_key_values, mask)


@torch.inference_mode()
def continuation_logliks(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    continuations: Sequence[Sequence[Sequence[int]]],
    batch_size: int,
) -> list[tuple[float, ...]]:
    """Summed log-likelihood, in nats, of every continuation of every prompt, a tuple per prompt.

    Each prompt is read once, whatever the number of its continuations; `batch_size` bounds those held at once.
    """
    asked = sorted((i for i, each in enumerate(continuations) if each), key=lambda i: (-len(prompts[i]), i))
    results: list[tuple[float, ...]] = [() for _ in prompts]
    at_once = max(batch_size // max((len(continuations[i]) for i in asked), default=1), 1)
    for begin in range(0, len(asked), at_once):
        members = asked[begin : begin + at_once]
        values = iter(_batch(model, [prompts[i] for i in members], [continuations[i] for i in members]))
        for i in members:
            results[i] = tuple(next(values) for _ in continuations[i])
    return results


def _batch(
    model: nn.Module, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[Sequence[int]]]
) -> list[float]:
    read = read_prompts(model, prompts)
    device = read.mask.device
    owners = torch.tensor([row for row, each in enumerate(continuations) for _ in each], device=device)
    texts = [tuple(text) for each in continuations for text in each]
    width = max(map(len, texts))
    ids = torch.full((len(texts), width), pad_of(model), dtype=torch.long)
    mask = torch.zeros((len(texts), width), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text, dtype=torch.long), 1
    ids, mask = ids.to(device), mask.to(device)
    # Most of the other positions are padding, and each of them has logits of a whole vocabulary.
    kept = mask[:, 1:].bool()
    tokens = torch.zeros(ids.shape, device=device)
    tokens[:, 0] = _of_tokens(read.logits[owners], ids[:, 0])
    if width > 1:
        read.cache.batch_select_indices(owners)
        before = read.mask[owners]
        out = model(
            input_ids=ids[:, :-1], attention_mask=torch.cat([before, mask[:, :-1]], 1),
            position_ids=before.sum(-1, keepdim=True) + torch.arange(width - 1, device=device),
            past_key_values=read.cache, use_cache=True,
        )  # fmt: skip
        tokens[:, 1:][kept] = _of_tokens(out.logits[kept], ids[:, 1:][kept])
    values: list[float] = tokens.sum(-1).tolist()
    return values


def _of_tokens(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-likelihood `[n]` of token `ids` `[n]` by logits `[n, vocabulary]`."""
    return logits.float().log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)
