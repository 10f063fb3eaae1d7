"""How differently two models use each neuron on the same completion.

Source: the change score of safety neurons (arXiv 2406.14144 [A]): both models read the same tokens, and the score of a
neuron is the root mean square of the difference of its activation over the tokens of the completion. This probe
measures the mean square of every prompt; the ranking averages prompts and takes the root.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from cnt_pipeline.activation_caches.probes.state import (
    activations,
    batches,
    by_module,
    forward,
    in_order,
    places,
    token_shares,
)
from cnt_pipeline.activation_caches.write import Values
from cnt_pipeline.models.architecture import Architecture, Matrix
from cnt_pipeline.models.teacher import Batch, Example

BUDGET = 256 << 20
"""Bytes of one model's activations that are held while the other model reads the same tokens."""


class ContrastProbe:
    """Mean over the response tokens of the squared difference of each neuron's activation in two models.

    An output neuron's activation is the layer's output, an input neuron's its input, as in `ActivationProbe`. Values
    `[prompts, neurons]` float32 by (layer, family), in squared units of the activation.

    Args:
        target, donor: two models of one architecture, each with its own embeddings and norms.
        examples: what both are made to read.
        batch_size: prompts a batch; less where their activations would exceed `BUDGET`.
    """

    def __init__(
        self,
        target: nn.Module,
        donor: nn.Module,
        architecture: Architecture,
        examples: Sequence[Example],
        batch_size: int,
    ) -> None:
        self.target = target
        self.donor = donor
        self.groups = by_module(architecture)
        self.examples = examples
        self.batch_size = batch_size
        width = sum(m.neurons for m in architecture.matrices)
        self._token_bytes = width * next(target.parameters()).element_size()

    def __call__(self, members: Sequence[int]) -> Values:
        chosen = [self.examples[i] for i in members]
        longest = max(len(example.tokens) for example in chosen)
        size = min(self.batch_size, max(1, BUDGET // (longest * self._token_bytes)))
        parts: list[tuple[tuple[int, ...], dict[tuple[int, str], Tensor]]] = []
        for batch in batches(self.target, chosen, size):
            parts.append((batch.members, self._differences(batch, token_shares(batch, chosen, "response"))))
        return in_order(parts, len(chosen))

    def _differences(self, batch: Batch, share: Tensor) -> dict[tuple[int, str], Tensor]:
        held: dict[str, Tensor] = {}
        found: dict[tuple[int, str], Tensor] = {}
        row, column = share.nonzero(as_tuple=True)

        def keep(name: str, part: Tensor) -> None:
            held[name] = part

        def compare(name: str, part: Tensor) -> None:
            ours = held.pop(name).to(part.device)
            squares = (part.float() - ours.float()).square_()
            squares *= share[row, column].to(part.device).unsqueeze(1)
            mean = squares.new_zeros(len(batch.members), squares.shape[1]).index_add_(0, row.to(part.device), squares)
            for matrix in self.groups[name]:
                where = places(matrix, mean)
                found[matrix.layer, matrix.family] = mean if where is None else mean.index_select(1, where)

        self._read(self.target, batch, (row, column), keep)
        self._read(self.donor, batch, (row, column), compare)
        return found

    def _read(
        self, model: nn.Module, batch: Batch, tokens: tuple[Tensor, Tensor], take: Callable[[str, Tensor], None]
    ) -> None:
        """Run a model and give the activations `[tokens, axis]` of every module at the chosen tokens to `take`."""

        def hook(name: str, matrix: Matrix) -> Callable[..., None]:
            def collect(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
                whole = activations(matrix, inputs, output)
                take(name, whole[tokens[0].to(whole.device), tokens[1].to(whole.device)])

            return collect

        handles = []
        try:
            for name, group in self.groups.items():
                handles.append(model.get_submodule(name).register_forward_hook(hook(name, group[0])))
            forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
