"""First-order saliency of every weight: `|W o dL/dW|`, averaged over examples.

Source: SNIP (Lee et al., 2019) as set-difference pruning uses it on language models (arXiv 2402.05162 [A]): the
absolute value is taken example by example, before the mean, so that opposite signs do not cancel.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cnt_pipeline.activation_caches.probes.moments import chosen_modules, refuse_non_finite, with_answers
from cnt_pipeline.activation_caches.probes.state import batches
from cnt_pipeline.activation_caches.tensor_file import write_tensors
from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import Architecture
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report, silent

_SCALE = 4096.0
"""What losses are multiplied by: keeps small gradients of a float16 model above that format's underflow, and is exact
in the others, being a power of two."""


def write_saliency(
    model: nn.Module,
    architecture: Architecture,
    examples: Mapping[str, Sequence[Example]],
    folder: Path,
    batch_size: int = 1,
    modules: Collection[str] | None = None,
    report: Report = silent,
) -> None:
    """Write the `weight_saliency` of the examples of each kind to `<kind>.safetensors` in `folder`.

    Raises:
        InputError: as `weight_saliency`.
    """
    for kind, asked in examples.items():
        found = weight_saliency(model, architecture, asked, batch_size, modules, report, f"measuring weights ({kind})")
        write_tensors(found, folder / f"{kind}.safetensors")


def weight_saliency(
    model: nn.Module,
    architecture: Architecture,
    examples: Sequence[Example],
    batch_size: int = 1,
    modules: Collection[str] | None = None,
    report: Report = silent,
    what: str = "measuring weights",
) -> dict[str, Tensor]:
    """Mean over examples of `|W o dL_x/dW|`, L_x the mean NLL per token of the example's answer.

    By tensor name, float32 in the layout in which the weight is stored. Examples without an answer count nothing.

    For one example `dL/dW = sum_t delta_t x_t^T` over all its tokens, with `x` the module's input and `delta` the
    gradient at its output: the backward pass forms it module by module and example by example and drops it, so that
    memory holds the sums (the size of the weights in float32), one such matrix and a batch's activations, never a
    gradient of the model. `modules` restricts the sums to some modules of the architecture.

    Args:
        model: frozen and in eval mode, as `load_model` gives it.
        batch_size: examples that go through the model together; each still has gradients of its own.

    Raises:
        InputError: no example has an answer, a module is none of the architecture's, or a value is not finite.
    """
    groups = chosen_modules(architecture, modules)
    answered = with_answers(examples)
    sums: dict[str, Tensor] = {}
    handles = []
    try:
        for name, (matrix, *_) in groups.items():
            module = model.get_submodule(name)
            weight = module.weight
            assert isinstance(weight, Tensor)
            sums[matrix.tensor] = torch.zeros_like(weight, dtype=torch.float32, requires_grad=False)
            hook = _adding(weight.detach(), matrix.transposed, sums[matrix.tensor])
            handles.append(module.register_forward_hook(hook))
        done = 0
        for batch in batches(model, answered, batch_size):
            with torch.enable_grad(), teacher.differentiable_inputs(model):
                losses = teacher.per_example(teacher.token_nll(model, batch, share=False), batch)
                (losses.sum() * _SCALE).backward()  # type: ignore[no-untyped-call]
            done += len(batch.members)
            report(what, done, len(answered))
    finally:
        for handle in handles:
            handle.remove()
    for name, values in sums.items():
        values /= len(answered) * _SCALE
        refuse_non_finite(name, values)
    return sums


def _adding(weight: Tensor, transposed: bool, total: Tensor) -> Callable[..., None]:
    """A forward hook that has the backward pass add `|W o G|` of every example of the batch to `total`."""

    def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        given = inputs[0].detach()

        def add(delta: Tensor) -> None:
            for x, d in zip(given, delta, strict=True):
                left, right = (x, d) if transposed else (d, x)
                total.add_((left.float().T @ right.float()).mul_(weight).abs_())

        output.register_hook(add)  # type: ignore[no-untyped-call]

    return collect
