"""Plain forward probes: activations of every neuron over the tokens of an answer or a prompt, and hidden states."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cnt_pipeline.activation_caches.write import Values
from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.teacher import Batch, Example


class ActivationProbe:
    """Mean and root mean square of each neuron's activation over the tokens of the answer (or of the prompt).

    An output neuron's activation is the layer's output, an input neuron's its input. Families are named
    `<family>.mean` and `<family>.rms`.
    """

    def __init__(
        self, model: nn.Module, architecture: Architecture, examples: Sequence[Example], tokens: str, batch_size: int
    ) -> None:
        self.model = model
        self._watch = _Watch(model, architecture)
        self.examples = examples
        self.tokens = tokens
        self.batch_size = batch_size

    def __call__(self, members: Sequence[int]) -> Values:
        chosen = [self.examples[i] for i in members]
        parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]] = []
        for batch in batches(self.model, chosen, self.batch_size):
            with self._watch.over(token_shares(batch, chosen, self.tokens)) as found:
                forward(self.model, batch)
            parts.append((batch.members, found))
        return in_order(parts, len(chosen))


class HiddenStateProbe:
    """Hidden state after every layer at the last token of the prompt, family `hidden`.

    Layer 0 is the embedding; the last layer's state carries the final norm, as transformers' `hidden_states` do.
    """

    def __init__(self, model: nn.Module, examples: Sequence[Example], batch_size: int) -> None:
        self.model = model
        self.examples = examples
        self.batch_size = batch_size

    def __call__(self, members: Sequence[int]) -> Values:
        chosen = [self.examples[i] for i in members]
        parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]] = []
        for batch in batches(self.model, chosen, self.batch_size):
            states = forward(self.model, batch, output_hidden_states=True).hidden_states
            rows = torch.arange(len(batch.members), device=batch.input_ids.device)
            last = torch.tensor([chosen[i].start - 1 for i in batch.members], device=rows.device)
            parts.append(
                (
                    batch.members,
                    {(n, "hidden"): s[rows.to(s.device), last.to(s.device)] for n, s in enumerate(states)},
                )
            )
        return in_order(parts, len(chosen))


def batches(model: nn.Module, examples: Sequence[Example], batch_size: int) -> Iterator[Batch]:
    return teacher.batches(examples, batch_size, teacher.device_of(model), teacher.pad_of(model))


@torch.inference_mode()
def forward(model: nn.Module, batch: Batch, **options: bool) -> Any:
    return model.base_model(  # type: ignore[operator]
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **options
    )


class _Watch:
    """Collects the weighted mean and RMS of every neuron in one forward pass, layer by layer on its device."""

    def __init__(self, model: nn.Module, architecture: Architecture) -> None:
        self._modules = [(model.get_submodule(name), group) for name, group in by_module(architecture).items()]
        self._positions: dict[int, list[Tensor | None]] = {}

    @contextmanager
    def over(self, share: Tensor) -> Iterator[dict[tuple[int, str], Tensor]]:
        """Measure the forward pass inside; `share` weighs tokens, `[batch, tokens]`."""
        found: dict[tuple[int, str], Tensor] = {}
        weighted = share.any(0).nonzero()
        window = slice(int(weighted[0]), int(weighted[-1]) + 1)
        weights = share[:, window].unsqueeze(1)
        handles = []
        try:
            for module, matrices in self._modules:
                handles.append(module.register_forward_hook(partial(self._collect, matrices, window, weights, found)))
            yield found
        finally:
            for handle in handles:
                handle.remove()

    def _collect(
        self,
        matrices: list[Matrix],
        window: slice,
        weights: Tensor,
        found: dict[tuple[int, str], Tensor],
        module: nn.Module,
        inputs: tuple[Tensor, ...],
        output: Tensor,
    ) -> None:
        part = activations(matrices[0], inputs, output)[:, window].float()
        weights = weights.to(part.device)
        mean = torch.bmm(weights, part).squeeze(1)
        rms = torch.bmm(weights, part.square()).squeeze(1).sqrt()
        for matrix, positions in zip(matrices, self._of(matrices, part), strict=True):
            key = f"{matrix.family}.mean", f"{matrix.family}.rms"
            for name, values in zip(key, (mean, rms), strict=True):
                found[matrix.layer, name] = values if positions is None else values.index_select(1, positions)

    def _of(self, matrices: list[Matrix], part: Tensor) -> list[Tensor | None]:
        if id(matrices) not in self._positions:
            self._positions[id(matrices)] = [places(matrix, part) for matrix in matrices]
        return self._positions[id(matrices)]


def by_module(architecture: Architecture) -> dict[str, list[Matrix]]:
    """The families of neurons in each module."""
    modules: dict[str, list[Matrix]] = {}
    for matrix in architecture.matrices:
        modules.setdefault(matrix.module, []).append(matrix)
    return modules


def activations(matrix: Matrix, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A module's activations: the output of output neurons, the input of input neurons."""
    return output if matrix.side == "row" else inputs[0]


def places(matrix: Matrix, part: Tensor) -> Tensor | None:
    """Where the family lies on the last axis of `part`; None where it is the whole axis."""
    if matrix.neurons == part.shape[-1]:
        return None
    return torch.tensor(matrix.positions, device=part.device)


def token_shares(batch: Batch, examples: Sequence[Example], tokens: str) -> Tensor:
    """`[batch, tokens]`: 1/n on each of the n tokens averaged over, 0 elsewhere.

    `tokens` is "response" or "prompt"; a prompt that was answered with nothing is averaged over its own tokens.
    """
    share = torch.zeros(batch.input_ids.shape)
    for row, i in enumerate(batch.members):
        start, end = examples[i].start, len(examples[i].tokens)
        begin, stop = (start, end) if tokens == "response" and end > start else (0, start)
        share[row, begin:stop] = 1 / max(stop - begin, 1)
    return share.to(batch.input_ids.device)


def in_order(parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]], count: int) -> Values:
    """Put the batches' rows back into the order of the examples."""
    values: dict[tuple[int, str], Tensor] = {}
    for members, found in parts:
        for key, rows in found.items():
            whole = values.setdefault(key, torch.zeros(count, rows.shape[1]))
            whole[list(members)] = rows.float().cpu()
    return {key: whole.numpy() for key, whole in values.items()}
