"""First and second moments of what every weight matrix reads: the inputs' mean and their mean outer product.

Methods that weigh weights by their inputs (methods sections 2 to 4) need `||X_j||`, the variance of `X_j` or the
principal directions of `W X`; all follow from these moments, whatever the number of tokens.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cnt_pipeline.activation_caches.probes.state import batches, by_module, forward, token_shares
from cnt_pipeline.activation_caches.tensor_file import write_tensors
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report, silent


def write_moments(
    model: nn.Module,
    architecture: Architecture,
    examples: Mapping[str, Sequence[Example]],
    folder: Path,
    batch_size: int,
    modules: Collection[str] | None = None,
    report: Report = silent,
) -> None:
    """Write the `input_moments` of the examples of each kind to `<kind>.safetensors` in `folder`.

    Modules that read the same input have a `second` of their own in the file, but share one in memory.

    Raises:
        InputError: as `input_moments`.
    """
    for kind, asked in examples.items():
        found = input_moments(model, architecture, asked, batch_size, modules, report, f"measuring inputs ({kind})")
        write_tensors(found, folder / f"{kind}.safetensors")


def input_moments(
    model: nn.Module,
    architecture: Architecture,
    examples: Sequence[Example],
    batch_size: int,
    modules: Collection[str] | None = None,
    report: Report = silent,
    what: str = "measuring inputs",
) -> dict[str, Tensor]:
    """Moments of the inputs of weight matrices over the tokens of answers, each example's answer counting the same.

    By module name: `<module>.mean` `[in]`, the mean over examples of the mean of x over their answer's tokens;
    `<module>.second` `[in, in]`, the same of `x x^T`; `<module>.tokens`, how many tokens were read (int64). Examples
    without an answer count nothing. Modules with one input (q, k, v; gate, up) share their tensors.

    Products and sums are float32. With T answer tokens in the largest batch and B batches an entry of `second` is off
    by at most about `(T + B) 2^-24 sqrt(second_ii second_jj)`, in practice by the square root of that count; sums in
    float64 would take twice the memory and leave the T. Memory: 4 bytes times the sum of `in^2` over distinct inputs,
    on the device of each layer; `modules` restricts it to some modules of the architecture.

    Raises:
        InputError: no example has an answer, a module is none of the architecture's, or a value is not finite.
    """
    groups = chosen_modules(architecture, modules)
    answered = with_answers(examples)
    sums = _Sums(len(answered))
    handles = []
    try:
        for name in groups:
            handles.append(model.get_submodule(name).register_forward_hook(sums.hook(name)))
        done = 0
        for batch in batches(model, answered, batch_size):
            sums.begin(token_shares(batch, answered, "response"))
            forward(model, batch)
            done += len(batch.members)
            report(what, done, len(answered))
    finally:
        for handle in handles:
            handle.remove()
    tokens = torch.tensor(sum(example.answer_length for example in answered))
    found: dict[str, Tensor] = {}
    for name in groups:
        mean, second = sums.of(name)
        refuse_non_finite(name, mean, second)
        found |= {f"{name}.mean": mean, f"{name}.second": second, f"{name}.tokens": tokens}
    return found


class _Sums:
    """Weighted sums of inputs, kept once for modules that are given the same tensor one after the other."""

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self._first: dict[str, str] = {}
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Mean `[in]` and second moment `[in, in]` of a module's input."""
        return self._sums[self._first[name]]

    def begin(self, share: Tensor) -> None:
        """The next forward pass reads tokens with these weights, `[batch, tokens]`, which sum to 1 per example."""
        self._row, self._column = share.nonzero(as_tuple=True)
        self._share = share[self._row, self._column] / self.examples
        self._previous: tuple[Tensor | None, str] = None, ""

    def hook(self, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            if name not in self._first:
                before, first = self._previous
                self._first[name] = first if inputs[0] is before else name
            if self._first[name] == name:
                self._previous = inputs[0], name
                self._add(name, inputs[0])

        return collect

    def _add(self, name: str, inputs: Tensor) -> None:
        place = inputs.device
        part = inputs[self._row.to(place), self._column.to(place)].float()
        share = self._share.to(place)
        if name not in self._sums:
            width = part.shape[1]
            with torch.inference_mode(False):
                self._sums[name] = torch.zeros(width, device=place), torch.zeros(width, width, device=place)
        mean, second = self._sums[name]
        mean.addmv_(part.T, share)
        # The same factor on both sides: entries (i, j) and (j, i) are sums of the same products.
        part *= share.sqrt().unsqueeze(1)
        second.addmm_(part.T, part)


def chosen_modules(architecture: Architecture, modules: Collection[str] | None) -> dict[str, list[Matrix]]:
    """The families in each module asked for (None: in all), in the architecture's order.

    Raises:
        InputError: a module is none of the architecture's.
    """
    groups = by_module(architecture)
    if modules is None:
        return groups
    unknown = sorted(set(modules) - set(groups))
    if unknown:
        raise InputError(f"{unknown[0]} is no module that holds neurons: name modules such as {next(iter(groups))}")
    return {name: group for name, group in groups.items() if name in modules}


def with_answers(examples: Sequence[Example]) -> list[Example]:
    """The examples that have an answer.

    Raises:
        InputError: none has.
    """
    answered = [example for example in examples if example.answer_length]
    if not answered:
        raise InputError("no prompt has an answer to measure: give more prompts, or raise the tokens of an answer")
    return answered


def refuse_non_finite(name: str, *values: Tensor) -> None:
    """Raise `InputError` where a model gave values that are not finite."""
    if not all(bool(value.isfinite().all()) for value in values):
        raise InputError(
            f"{name}: the model gave values that are not finite; check the checkpoint for damaged weights, or set "
            "`dtype: float32` in the study"
        )
