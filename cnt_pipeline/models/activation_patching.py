"""Activation patching: a model that runs with some neurons' activations taken from another model on the same tokens.

Source: dynamic activation patching (Chen et al., arXiv 2406.14144 [A], methods section 4). Within `patched` every pass
of the target is two: the donor reads the same tokens first, then the target, in which the chosen neurons act as they
just did in the donor, at every position of the prompt and of the answer that the patched target goes on to give. Each
model attends to keys and values of its own, and the two caches travel as one: whatever generates, batches or measures
likelihoods works within the context as it does outside.

A neuron's activation is what the activation probes record of it:

    rows     q, k, v, gate, up: the output of its row with its bias, before any nonlinearity, norm or rotation
    columns  o, down: its input, which its column is multiplied with

The source's neurons are those of the FFN's inner width, with what the last projection reads as their activation: here
the neurons of `down`. Rows of gate and up are neurons of their own here, since methods choose and copy them one by one;
where `down` of the same index is patched too, theirs reach nothing else and change nothing more.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnt_pipeline.models.architecture import Architecture, Matrix, Neurons


@contextmanager
def patched(target: nn.Module, donor: nn.Module, architecture: Architecture, neurons: Neurons) -> Iterator[None]:
    """Run `target` with the activations that `neurons` have in `donor` on the same tokens.

    Both are whole models, in eval mode, with embeddings, norms and head of their own; the donor's head is not run. A
    cache that was made outside the context cannot be gone on with inside.

    Raises:
        ValueError: the models have no such layer and family, or `target` and `donor` are one object.
    """
    if target is donor:
        raise ValueError("activations are patched from another model: load the donor beside the target")
    patches = _patches(architecture, neurons)
    handles = []
    try:
        for name, patch in patches.items():
            handles.append(donor.get_submodule(name).register_forward_hook(patch.take))
            module = target.get_submodule(name)
            if patch.row:
                handles.append(module.register_forward_hook(patch.put_output))
            else:
                handles.append(module.register_forward_pre_hook(patch.put_input))
        body = target.base_model
        assert isinstance(body, nn.Module)
        handles.append(body.register_forward_pre_hook(partial(_donor_first, target, donor), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Patch:
    """The chosen neurons of one module: holds their activations from the donor's pass until the target's."""

    def __init__(self, row: bool, positions: Tensor) -> None:
        self.row = row
        self._positions = positions
        self._held: Tensor | None = None

    def take(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        whole = output if self.row else inputs[0]
        self._held = whole.index_select(-1, self._positions.to(whole.device))

    def put_output(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return self._put(output)

    def put_input(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._put(inputs[0]), *inputs[1:])

    def _put(self, ours: Tensor) -> Tensor:
        theirs, self._held = self._held, None
        assert theirs is not None
        return ours.index_copy(-1, self._positions.to(ours.device), theirs.to(ours))


def _patches(architecture: Architecture, neurons: Neurons) -> dict[str, _Patch]:
    """What is patched in each module, by its name."""
    matrices = {(matrix.layer, matrix.family): matrix for matrix in architecture.matrices}
    by_module: dict[str, list[Matrix]] = {}
    for key, chosen in neurons.items():
        if key not in matrices:
            raise ValueError(f"the models have no layer and family {key}")
        if len(chosen):
            by_module.setdefault(matrices[key].module, []).append(matrices[key])
    found = {}
    for name, group in by_module.items():
        positions = np.concatenate([each.positions[neurons[each.layer, each.family]] for each in group])
        found[name] = _Patch(group[0].side == "row", torch.from_numpy(positions))
    return found


def _donor_first(
    target: Any, donor: Any, body: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Let the donor read what the target is about to read, each with its own part of the cache."""
    cache = options.get("past_key_values")
    if cache is None and options.get("use_cache") is not False:
        cache = _common_cache(target, donor)
    with torch.no_grad():
        donor.base_model(*arguments, **{**options, "past_key_values": _donor_part(cache, donor)})
    return arguments, {**options, "past_key_values": cache}


def _common_cache(target: Any, donor: Any) -> Any:
    """An empty cache of the target whose list of layers goes on with the donor's.

    Models find their layers by number, so the target never sees them; what repeats or selects rows of a batch goes
    through the list and reaches both.
    """
    from transformers import DynamicCache

    cache = DynamicCache(config=target.config)
    cache.layers.extend(DynamicCache(config=donor.config).layers)
    return cache


def _donor_part(cache: Any, donor: Any) -> Any:
    """A cache of the donor's layers in a common cache, the same objects."""
    if cache is None:
        return None
    from transformers import DynamicCache

    part = DynamicCache(config=donor.config)
    ours = len(cache.layers) - len(part.layers)
    if ours != len(part.layers):
        raise ValueError("this cache was made outside `patched`: read the prompts again inside")
    part.layers = cache.layers[ours:]
    return part
