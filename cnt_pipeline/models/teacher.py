"""Teacher forcing: the likelihood of given answers, in batches sorted by length, the last one never dropped."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cnt_pipeline.models.common_start import common_start, read_start, worth_sharing


@dataclass(frozen=True)
class Example:
    """One token sequence whose tail from `start` on is the answer that is scored."""

    tokens: tuple[int, ...]
    start: int

    @property
    def answer_length(self) -> int:
        """Number of scored tokens."""
        return len(self.tokens) - self.start


@dataclass(frozen=True)
class Batch:
    """Right-padded examples. Scored positions are listed flat: logits at (`row`, `column`) predict `answer`.

    `common` is the number of tokens that all begin with and none of which predicts an answer.
    """

    members: tuple[int, ...]
    input_ids: Tensor
    attention_mask: Tensor
    row: Tensor
    column: Tensor
    answer: Tensor
    common: int


def batches(examples: Sequence[Example], batch_size: int, device: torch.device, pad: int) -> Iterator[Batch]:
    """All examples, longest first (the largest batch fails first if memory is short), ties in the order given."""
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].tokens), i))
    for begin in range(0, len(order), batch_size):
        yield make_batch(examples, order[begin : begin + batch_size], device, pad)


def make_batch(examples: Sequence[Example], members: Sequence[int], device: torch.device, pad: int) -> Batch:
    """The named examples as one batch."""
    width = max(len(examples[i].tokens) for i in members)
    ids = torch.full((len(members), width), pad, dtype=torch.long)
    mask = torch.zeros((len(members), width), dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    answers: list[int] = []
    for position, i in enumerate(members):
        tokens = examples[i].tokens
        ids[position, : len(tokens)] = torch.tensor(tokens)
        mask[position, : len(tokens)] = 1
        answered = range(examples[i].start, len(tokens))
        rows += [position] * len(answered)
        columns += [column - 1 for column in answered]
        answers += [tokens[column] for column in answered]
    flat = torch.tensor([rows, columns, answers], dtype=torch.long, device=device).reshape(3, -1)
    common = common_start([examples[i].tokens for i in members], min(examples[i].start for i in members) - 1)
    return Batch(tuple(members), ids.to(device), mask.to(device), flat[0], flat[1], flat[2], max(common, 0))


def answer_logits(model: nn.Module, batch: Batch, share: bool = True) -> Tensor:
    """Logits `[scored tokens, vocabulary]` at the scored positions only, in float32.

    They come back to the batch's device, wherever the head lies. It runs on those positions alone: logits of whole
    sequences cost a fifth of a forward pass and most memory.

    With `share` the start that all examples have in common is read once, also under autograd. Whoever watches layers
    for what single examples do there, or computes layers twice (checkpointing), must not share.
    """
    shared = worth_sharing(model, batch.common, len(batch.members)) if share else 0
    body = model.base_model(  # type: ignore[operator]
        input_ids=batch.input_ids[:, shared:],
        attention_mask=batch.attention_mask,
        position_ids=torch.arange(shared, batch.input_ids.shape[1], device=batch.input_ids.device).unsqueeze(0),
        past_key_values=read_start(model, batch.input_ids[:1, :shared], len(batch.members)),
        use_cache=bool(shared),
    )
    states: Tensor = body.last_hidden_state
    head = model.get_output_embeddings()  # type: ignore[operator]
    hidden = states[batch.row.to(states.device), (batch.column - shared).to(states.device)].to(head.weight.device)
    logits: Tensor = head(hidden).to(batch.answer.device).float()
    cap = getattr(model.config, "final_logit_softcapping", None)
    if isinstance(cap, int | float):
        logits = torch.tanh(logits / cap) * cap
    return logits


def token_nll(model: nn.Module, batch: Batch, share: bool = True) -> Tensor:
    """Negative log-likelihood of every scored token, `[scored tokens]`, in nats; `share` as in `answer_logits`."""
    return nn.functional.cross_entropy(answer_logits(model, batch, share), batch.answer, reduction="none")


def per_example(values: Tensor, batch: Batch, mean: bool = True) -> Tensor:
    """Mean (or sum) of token values over each example's answer, `[batch]`; 0 for an empty answer."""
    total = values.new_zeros(len(batch.members)).index_add(0, batch.row, values)
    if not mean:
        return total
    count = values.new_zeros(len(batch.members)).index_add(0, batch.row, torch.ones_like(values))
    return total / count.clamp(min=1)


@torch.inference_mode()
def answer_nll(model: nn.Module, examples: Sequence[Example], batch_size: int, mean: bool = True) -> list[float]:
    """Mean (or summed) negative log-likelihood per answer token of every example, in nats, in the order given."""
    results = [0.0] * len(examples)
    for batch in batches(examples, batch_size, device_of(model), pad_of(model)):
        for i, value in zip(batch.members, per_example(token_nll(model, batch), batch, mean).tolist(), strict=True):
            results[i] = value
    return results


@contextmanager
def differentiable_inputs(model: nn.Module) -> Iterator[None]:
    """Make the embeddings' output require a gradient, so that a backward pass reaches every layer of a frozen model."""
    handle = model.get_input_embeddings().register_forward_hook(  # type: ignore[operator]
        lambda module, arguments, output: output.requires_grad_(True)
    )
    try:
        yield
    finally:
        handle.remove()


def device_of(model: nn.Module) -> torch.device:
    """Device on which the model takes its input: that of its embeddings, whose output starts every layer."""
    device: torch.device = model.get_input_embeddings().weight.device  # type: ignore[operator]
    return device


def pad_of(model: nn.Module) -> int:
    """A valid token id for padding; what it is never matters under the attention mask."""
    pad = getattr(model.config, "pad_token_id", None)
    return pad if isinstance(pad, int) and pad >= 0 else 0
