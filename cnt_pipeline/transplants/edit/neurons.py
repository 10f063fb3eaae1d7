"""Scores of whole neurons by weights and by statistics of activations; the best are copied from the donor.

Formulas and grades: methods.md, section 4.
"""

import numpy as np
import numpy.typing as npt
import torch

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture import Matrix
from cnt_pipeline.study.schema import Kind
from cnt_pipeline.transplants.edit.blockwise import squares, transposed_times
from cnt_pipeline.transplants.edit.copying import Key, copied, matrices_of, random_like, within_budget
from cnt_pipeline.transplants.edit.prompt_rows import read_prompt_rows, read_statistics
from cnt_pipeline.transplants.edit.rows.neurons import (
    DeltaNormOptions,
    Families,
    RandomOptions,
    RefusalDotOptions,
    SafeNeuronOptions,
    SafetyNeuronsOptions,
    SsahOptions,
)
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source, generator
from cnt_pipeline.transplants.edit.weights import Weight

Array = npt.NDArray[np.float64]
Scored = dict[Key, Array]
"""`[neurons]` by (layer, family)."""

SAFETY: Kind = "function"
UTILITY: Kind = "utility"


def safety_neurons(source: Source, options: SafetyNeuronsOptions, seed: int) -> Edits:
    """Neurons that target and donor use most differently on the same answers (arXiv 2406.14144 [A])."""
    return copied(source, within_budget(source, activation_change(source, options.families), options.budget))


def activation_change(source: Source, families: Families) -> Scored:
    """Root mean square over function prompts of how far a neuron's activation moves from target to donor.

    Of a prompt's tokens the caches hold mean and root mean square, which bound the mean square difference from below by
    (difference of means)^2 + (difference of standard deviations)^2; that bound is taken.

    Raises:
        InputError: the two caches are of different prompts.
    """
    folders = [source.probe("activation", model) for model in ("target", "donor")]
    matrices = matrices_of(source, families)
    scores: Scored = {}
    for family in dict.fromkeys(matrix.family for matrix in matrices):
        means = [read_prompt_rows(folder, f"{family}.mean", [SAFETY]) for folder in folders]
        sizes = [read_prompt_rows(folder, f"{family}.rms", [SAFETY]) for folder in folders]
        if means[0].prompts != means[1].prompts:
            raise InputError(
                "target and donor were measured on different prompts: run the activation probe of both again"
            )
        for layer in means[0].layers:
            ours, theirs = (part.layers[layer].astype(np.float64) for part in means)
            spreads = [
                np.sqrt(np.maximum(size.layers[layer].astype(np.float64) ** 2 - mean**2, 0))
                for size, mean in zip(sizes, (ours, theirs), strict=True)
            ]
            squares = (theirs - ours) ** 2 + (spreads[1] - spreads[0]) ** 2
            scores[layer, family] = np.sqrt(squares.mean(0))
    return scores


def safeneuron(source: Source, options: SafeNeuronOptions, seed: int) -> Edits:
    """Neurons of the donor that function prompts drive well above utility prompts (arXiv 2602.12158 [A])."""
    return copied(source, within_budget(source, safety_margins(source, options), options.budget))


def safety_margins(source: Source, options: SafeNeuronOptions) -> Scored:
    """Effect size and shift in units of their thresholds, by the criterion; minus infinity where it is not passed.

    Effect size is Cohen's d over the prompts' mean activations with the pooled unbiased variance, without limit where
    neither kind varies; shift is the difference of means, standardised over the neurons of its layer and family.
    """
    matrices = matrices_of(source, options.families)
    families = list(dict.fromkeys(f"{matrix.family}.mean" for matrix in matrices))
    statistics = read_statistics(source.probe("activation", "donor"), families, [SAFETY, UTILITY])
    scores: Scored = {}
    for matrix in matrices:
        safe, plain = (statistics[kind, matrix.layer, f"{matrix.family}.mean"] for kind in (SAFETY, UTILITY))
        change = safe.mean - plain.mean
        spread = np.sqrt((safe.m2 + plain.m2) / max(safe.n + plain.n - 2, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            effect = np.where(change == 0, 0.0, change / spread) / options.effect_size
        shift = standardised(change) / options.shift
        margin = {
            "either": np.maximum(effect, shift),
            "both": np.minimum(effect, shift),
            "effect_size": effect,
            "shift": shift,
        }[options.criterion]
        scores[matrix.layer, matrix.family] = np.where(margin > 1, margin, -np.inf)
    return scores


def ssah(source: Source, options: SsahOptions, seed: int) -> Edits:
    """Input columns that vary more, and weigh more, on safety than on utility answers (arXiv 2410.10862 [B])."""
    return copied(source, within_budget(source, column_importance(source, options), options.budget))


def column_importance(source: Source, options: SsahOptions) -> Scored:
    """`Var(X_j) ||W[:, j]||^2` of the donor on function prompts less that on utility prompts, for o and down."""
    scores: Scored = {}
    for linear, matrix in _columns(source, options.families):
        norms = squares(Weight(source, linear, "donor"), "column")
        safety, utility = (
            (norms * source.moments("donor", kind, linear).variance.double()).numpy()[matrix.positions]
            for kind in (SAFETY, UTILITY)
        )
        if options.standardise:
            safety, utility = standardised(safety), standardised(utility)
        scores[matrix.layer, matrix.family] = safety - utility
    return scores


def _columns(source: Source, families: Families) -> list[tuple[Linear, Matrix]]:
    """The stored matrices whose input columns are neurons of the families."""
    wanted = {matrix.tensor: matrix for matrix in matrices_of(source, families, "column")}
    return [(linear, wanted[linear.tensor]) for linear in source.linears if linear.tensor in wanted]


def refusal_dot(source: Source, options: RefusalDotOptions, seed: int) -> Edits:
    """Columns that write most along the refusal direction of the donor (arXiv 2406.11717 [A])."""
    return copied(source, within_budget(source, refusal_writing(source, options), options.budget))


def refusal_writing(source: Source, options: RefusalDotOptions) -> Scored:
    """`|W[:, i] . r|` of the donor's o and down columns, r the refusal direction behind the layer.

    The state behind the last layer carries the final norm, so the one before it stands for it.

    Raises:
        InputError: `layer` lies outside the model.
    """
    layers = source.architecture.layers
    if options.layer is not None and options.layer >= layers:
        raise InputError(f"the model has {layers} layers, numbers 0 to {layers - 1}: choose `layer:` among them")
    statistics = read_statistics(source.probe("hidden_state", "donor"), ["hidden"], [SAFETY, UTILITY])
    scores: Scored = {}
    for linear, matrix in _columns(source, options.families):
        state = min((linear.layer if options.layer is None else options.layer) + 1, layers - 1)
        direction = statistics[SAFETY, state, "hidden"].mean - statistics[UTILITY, state, "hidden"].mean
        length = float(np.linalg.norm(direction))
        if options.unit and length:
            direction = direction / length
        written = transposed_times(Weight(source, linear, "donor"), torch.from_numpy(direction)[:, None])
        scores[matrix.layer, matrix.family] = written.flatten().abs().numpy()[matrix.positions]
    return scores


def delta_norm(source: Source, options: DeltaNormOptions, seed: int) -> Edits:
    """Control: the neurons whose weights differ most between donor and target."""
    return copied(source, within_budget(source, delta_norms(source, options.families), options.budget))


def delta_norms(source: Source, families: Families) -> Scored:
    """`||D_n||` of every neuron, its bias included."""
    wanted = {(matrix.layer, matrix.family) for matrix in matrices_of(source, families)}
    scores: Scored = {}
    for linear in source.linears:
        matrices = [matrix for matrix in linear.matrices if (matrix.layer, matrix.family) in wanted]
        if not matrices:
            continue
        norms = squares(Weight(source, linear, "donor", "target"), matrices[0].side).sqrt().numpy()
        for matrix in matrices:
            part = norms[matrix.positions]
            if matrix.bias is not None:
                bias = source.tensor("donor", matrix.bias) - source.tensor("target", matrix.bias)
                part = np.hypot(part, bias.double().numpy()[matrix.positions])
            scores[matrix.layer, matrix.family] = part
    return scores


def random(source: Source, options: RandomOptions, seed: int) -> Edits:
    """Control: neurons drawn at random, evenly over layers and families or as delta_norm spreads them."""
    if options.like == "delta_norm":
        largest = within_budget(source, delta_norms(source, options.families), options.budget)
        return copied(source, random_like(source, largest, seed))
    matrices = matrices_of(source, options.families)
    scores = {(matrix.layer, matrix.family): _shuffled_ranks(matrix, seed) for matrix in matrices}
    return copied(source, within_budget(source, scores, options.budget))


def _shuffled_ranks(matrix: Matrix, seed: int) -> Array:
    """The neurons in random order, as shares of their number: the top over all matrices is an even share of each."""
    lot = generator(seed, f"{matrix.tensor}:{matrix.family}")
    return (torch.randperm(matrix.neurons, generator=lot).double().numpy() + 0.5) / matrix.neurons


def standardised(values: Array) -> Array:
    """`values` `[neurons]` less their mean, in standard deviations; zeros where all are equal."""
    spread = values.std()
    return (values - values.mean()) / spread if spread else np.zeros_like(values)
