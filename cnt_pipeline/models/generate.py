"""Deterministic batched generation: chat template, left padding, key-value cache, greedy choice."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.teacher import device_of, pad_of

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
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_of(model), dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    ends = torch.tensor(sorted(stop), dtype=torch.long, device=device)
    open_rows = torch.ones(len(prompts), dtype=torch.bool, device=device)
    loglik = torch.zeros(len(prompts), dtype=torch.float64, device=device)
    produced: list[torch.Tensor] = []
    lives: list[torch.Tensor] = []
    cache = None
    step = ids
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        out = model(
            input_ids=step, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
            logits_to_keep=1,
        )  # fmt: skip
        cache = out.past_key_values
        scores = out.logits[:, -1].float().log_softmax(-1)
        best, chosen = scores.max(-1)
        loglik += torch.where(open_rows, best, 0).double()
        produced.append(chosen)
        lives.append(open_rows)
        open_rows = open_rows & ~torch.isin(chosen, ends)
        if not bool(open_rows.any()):
            break
        step = chosen.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
        positions = positions[:, -1:] + 1
    tokens = torch.stack(produced, 1).tolist()
    lengths = torch.stack(lives, 1).sum(1).tolist()
    return [
        Answer(tuple(row[:length]), score, not still_open)
        for row, length, score, still_open in zip(tokens, lengths, loglik.tolist(), open_rows.tolist(), strict=True)
    ]
