"""Plain forward probes: activations of every neuron over the tokens of an answer or a prompt, and hidden states."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cnt_pipeline.activation_caches.write import Values
from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import Architecture
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
        self.architecture = architecture
        self.examples = examples
        self.tokens = tokens
        self.batch_size = batch_size

    def __call__(self, members: Sequence[int]) -> Values:
        chosen = [self.examples[i] for i in members]
        parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]] = []
        for batch in _batches(self.model, chosen, self.batch_size):
            share = self._token_shares(batch, chosen)
            with _watch(self.model, self.architecture, share) as found:
                _forward(self.model, batch)
            parts.append((batch.members, dict(found)))
        return _in_order(parts, len(chosen))

    def _token_shares(self, batch: Batch, examples: Sequence[Example]) -> Tensor:
        """`[batch, tokens]`: 1/n on each of the n tokens averaged over, 0 elsewhere."""
        share = torch.zeros(batch.input_ids.shape)
        for row, i in enumerate(batch.members):
            start, end = examples[i].start, len(examples[i].tokens)
            begin, stop = (start, end) if self.tokens == "response" and end > start else (0, start)
            share[row, begin:stop] = 1 / max(stop - begin, 1)
        return share.to(batch.input_ids.device)


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
        for batch in _batches(self.model, chosen, self.batch_size):
            states = _forward(self.model, batch, output_hidden_states=True).hidden_states
            rows = torch.arange(len(batch.members), device=batch.input_ids.device)
            last = torch.tensor([chosen[i].start - 1 for i in batch.members], device=rows.device)
            parts.append((batch.members, {(n, "hidden"): state[rows, last] for n, state in enumerate(states)}))
        return _in_order(parts, len(chosen))


def _batches(model: nn.Module, examples: Sequence[Example], batch_size: int) -> Iterator[Batch]:
    return teacher.batches(examples, batch_size, teacher.device_of(model), teacher.pad_of(model))


@torch.inference_mode()
def _forward(model: nn.Module, batch: Batch, **options: bool) -> Any:
    return model.base_model(  # type: ignore[operator]
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **options
    )


@contextmanager
def _watch(model: nn.Module, architecture: Architecture, share: Tensor) -> Iterator[dict[tuple[int, str], Tensor]]:
    """Collect the weighted mean and RMS of every neuron in one forward pass; `share` weighs tokens, `[batch,
    tokens]`."""
    found: dict[tuple[int, str], Tensor] = {}

    def hook(module_matrices: list[Any]) -> Callable[..., None]:
        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            whole = (output if module_matrices[0].side == "row" else inputs[0]).float()
            weights = share.unsqueeze(1)
            mean = torch.bmm(weights, whole).squeeze(1)
            rms = torch.bmm(weights, whole.square()).squeeze(1).sqrt()
            for matrix in module_matrices:
                positions = torch.tensor(matrix.positions, device=whole.device)
                found[matrix.layer, f"{matrix.family}.mean"] = mean.index_select(1, positions)
                found[matrix.layer, f"{matrix.family}.rms"] = rms.index_select(1, positions)

        return collect

    by_module: dict[str, list[Any]] = {}
    for matrix in architecture.matrices:
        by_module.setdefault(matrix.module, []).append(matrix)
    handles = [model.get_submodule(name).register_forward_hook(hook(group)) for name, group in by_module.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _in_order(parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]], count: int) -> Values:
    """Put the batches' rows back into the order of the examples."""
    values: dict[tuple[int, str], Tensor] = {}
    for members, found in parts:
        for key, rows in found.items():
            whole = values.setdefault(key, torch.zeros(count, rows.shape[1]))
            whole[list(members)] = rows.float().cpu()
    return {key: whole.numpy() for key, whole in values.items()}
