"""Deterministic batched generation: chat template, left padding, key-value cache, greedy choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.reading import read_prompts
from cnt_pipeline.models.teacher import device_of

Messages = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Answer:
    """One greedy answer: token ids with the closing token if there was one, and their summed log-likelihood."""

    tokens: tuple[int, ...]
    loglik: float
    finished: bool


def encode_prompt(tokenizer: Any, messages: Messages, prefix: str = "", system: str | None = None) -> tuple[int, ...]:
    """Token ids of a prompt up to where the model goes on, through the tokenizer's chat template where it has one.

    Raises:
        InputError: the template refuses the conversation (no system role, say).
    """
    turns = [{"role": role, "content": content} for role, content in messages]
    if system is not None and turns[0]["role"] != "system":
        turns.insert(0, {"role": "system", "content": system})
    if tokenizer.chat_template is None:
        plain = "\n".join(turn["content"] for turn in turns)
        return tuple(tokenizer(f"{plain} {prefix}" if prefix else plain, verbose=False)["input_ids"])
    import jinja2

    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(
            f"the model's chat template refuses messages of {roles} ({error}); change the prompt set"
        ) from None
    return tuple(tokenizer(rendered + prefix, add_special_tokens=False, verbose=False)["input_ids"])


@torch.inference_mode()
def greedy(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    stop: frozenset[int],
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    """Greedy answers in the order of `prompts`; batches go longest first, ties in the order given.

    `progress` is told how many prompts each batch finished.
    """
    order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    answers: list[Answer | None] = [None] * len(prompts)
    for begin in range(0, len(order), batch_size):
        members = order[begin : begin + batch_size]
        for i, answer in zip(members, _batch(model, [prompts[i] for i in members], max_new_tokens, stop), strict=True):
            answers[i] = answer
        if progress:
            progress(len(members))
    return [answer for answer in answers if answer is not None]


def stop_tokens(model: nn.Module, tokenizer: Any) -> frozenset[int]:
    """Token ids that end an answer: the generation settings' and the tokenizer's."""
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ids = set(stated if isinstance(stated, list) else [stated]) | {tokenizer.eos_token_id}
    return frozenset(i for i in ids if i is not None)


def _batch(model: nn.Module, prompts: list[Sequence[int]], max_new_tokens: int, stop: frozenset[int]) -> list[Answer]:
    device = device_of(model)
    read = read_prompts(model, prompts)
    ends = torch.tensor(sorted(stop), dtype=torch.long, device=device)
    open_rows = torch.ones(len(prompts), dtype=torch.bool, device=device)
    loglik = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    produced: list[torch.Tensor] = []
    lives: list[torch.Tensor] = []
    logits, mask, lengths = read.logits, read.mask, read.mask.sum(-1, keepdim=True)
    for step in range(max_new_tokens):
        best, chosen = logits.float().log_softmax(-1).max(-1)
        loglik += torch.where(open_rows, best, 0).double()
        produced.append(chosen)
        lives.append(open_rows)
        open_rows = open_rows & ~torch.isin(chosen, ends)
        if step + 1 == max_new_tokens or not bool(open_rows.any()):
            break
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        out = model(
            input_ids=chosen.unsqueeze(1), attention_mask=mask, position_ids=lengths + step,
            past_key_values=read.cache, use_cache=True, logits_to_keep=1,
        )  # fmt: skip
        logits = out.logits[:, -1]
    tokens = torch.stack(produced, 1).tolist()
    counts = torch.stack(lives, 1).sum(1).tolist()
    return [
        Answer(tuple(row[:count]), score, not still_open)
        for row, count, score, still_open in zip(tokens, counts, loglik.tolist(), open_rows.tolist(), strict=True)
    ]
