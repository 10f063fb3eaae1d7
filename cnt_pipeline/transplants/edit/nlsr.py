"""Neuron-level safety realignment (NLSR; Yi et al., AAAI 2025, arXiv 2412.12497; grade A, methods section 2).

Four steps over what the aligned model (donor) and the user's fine-tuned model (target) each added to the base model:
an amplified reference, masks of safety-critical entries in its low-rank factors, the choice of damaged matrices, and
the transplant of the reference's entries under the masks. Options name the paper's and the authors' code's reading
where they differ; the row's `deviations` say what full weights in place of adapters change. Where target and donor are
made from the base model by adapters, these are edited themselves, as in the paper.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapters import Adapters
from cnt_pipeline.transplants.edit.blockwise import between, pieces
from cnt_pipeline.transplants.edit.lora_factors import Factors, aligned, cosine, factor, has_own, own
from cnt_pipeline.transplants.edit.moments import StoredRows
from cnt_pipeline.transplants.edit.rows.nlsr import NlsrOptions
from cnt_pipeline.transplants.edit.source import AdapterEdits, Edits, Linear, Source, generator
from cnt_pipeline.transplants.edit.weights import Weight


@dataclass(frozen=True)
class ModuleDecision:
    """What was decided for one matrix, for a report.

    `similarity`: cosine in [-1, 1] between the safety-critical parts of reference and target. `keep`: probability in
    [0, 1] with which the matrix was to stay as it is. `patched`: whether it is repaired.
    """

    tensor: str
    module: str
    layer: int
    families: tuple[str, ...]
    similarity: float
    keep: float
    patched: bool


@dataclass(frozen=True, eq=False)
class Masks:
    """Safety-critical entries of a pair of factors, as booleans: `b` `[out, rank]`, `a` `[rank, in]`."""

    b: Tensor
    a: Tensor


def nlsr(source: Source, options: NlsrOptions, seed: int) -> Edits | AdapterEdits:
    """The matrices that are repaired, and what each becomes; with the repaired adapter where the target has one.

    Raises:
        InputError: the options name families or modules that cannot be chosen, the donor equals the base model, or
            factors of adapters are asked for that cannot be compared.
    """
    if options.factors == "adapter" and not has_own(source):
        raise InputError(
            "nlsr with `factors: adapter` compares the adapters of target and donor entry by entry, but they have "
            "other ranks: train one on from the other, or set factors: svd"
        )
    decisions = decide(source, options, seed)
    edits = transplant(source, options, decisions)
    if not _by_adapters(source, options):
        return edits
    return AdapterEdits(edits, partial(patched_adapter, source, options, decisions))


def decide(source: Source, options: NlsrOptions, seed: int) -> tuple[ModuleDecision, ...]:
    """Which matrices are repaired, in the architecture's order; holds the factors of one matrix at a time.

    Matrices in which the donor equals the base model have nothing to give and are in no decision. A matrix that is
    repaired is factored once more when it is written: a decision needs the similarities of all, and keeping the factors
    of all until then would hold a checkpoint's worth: at rank 128, those of target and donor take 5.4 GB for a Llama of
    8 billion parameters, whose largest tensor takes 2.1 GB in float32.

    Raises:
        InputError: as `nlsr`.
    """
    ranked = [(linear, similarity(source, options, linear)) for linear in chosen(source, options)]
    found = [(linear, value) for linear, value in ranked if value is not None]
    if not found:
        raise InputError(
            "the donor equals the base model in every matrix that nlsr may edit, so there is no alignment to restore: "
            "name the model before alignment as base"
        )
    keeps = keep_probabilities([value for _, value in found], options)
    return tuple(
        ModuleDecision(
            linear.tensor,
            linear.module,
            linear.layer,
            linear.families,
            value,
            keep,
            _drawn(seed, linear.tensor) >= keep,
        )
        for (linear, value), keep in zip(found, keeps, strict=True)
    )


def transplant(source: Source, options: NlsrOptions, decisions: Sequence[ModuleDecision]) -> Edits:
    """What every matrix that was decided to be repaired becomes."""
    patched = {decision.tensor for decision in decisions if decision.patched}
    return {
        linear.tensor: partial(_repaired, source, options, linear)
        for linear in source.linears
        if linear.tensor in patched
    }


def patched_adapter(source: Source, options: NlsrOptions, decisions: Sequence[ModuleDecision]) -> Adapters:
    """The target's adapter with the factors of the matrices that were decided to be repaired; merged into the base
    model, it gives what `transplant` makes of the target.

    Joined by sum of products, a repaired matrix has both pairs of masked factors side by side: twice the rank.
    """
    patched = {decision.tensor for decision in decisions if decision.patched}
    target = source.adapters["target"]
    factors, alphas = dict(target.factors), dict(target.alphas)
    for linear in source.linears:
        if linear.tensor in patched:
            repaired, _ = _joined(source, options, linear)
            factors[linear.module] = repaired.a.float(), repaired.b.float()
            alphas[linear.module] = float(repaired.rank)
    return Adapters(factors, alphas)


def chosen(source: Source, options: NlsrOptions) -> tuple[Linear, ...]:
    """The matrices that the options let the method look at.

    Raises:
        InputError: a family or pattern names nothing, or only a part of a fused matrix.
    """
    known = source.architecture.families
    if absent := [family for family in options.families or () if family not in known]:
        raise InputError(f"the model has no neuron family '{absent[0]}': choose among {', '.join(known)}")
    wanted = set(options.families or known)
    patterns = options.modules or ("*",)
    for pattern in patterns:
        if not any(fnmatchcase(linear.module, pattern) for linear in source.linears):
            raise InputError(
                f"the pattern '{pattern}' fits no module: write one that fits, for instance, {source.linears[0].module}"
            )
    found = []
    for linear in source.linears:
        if wanted.isdisjoint(linear.families) or not any(fnmatchcase(linear.module, one) for one in patterns):
            continue
        if not wanted.issuperset(linear.families):
            raise InputError(
                f"{linear.tensor} holds {', '.join(linear.families)} in one matrix, which nlsr edits as a whole: list "
                "all of them in families, or none"
            )
        found.append(linear)
    if not found:
        raise InputError("no module fits both families and modules: leave one of them out")
    return tuple(found)


def similarity(source: Source, options: NlsrOptions, linear: Linear) -> float | None:
    """Cosine between the masked products of reference and target; None where the donor equals the base model.

    The amplification does not enter: a cosine does not see scale.
    """
    donor = _donor(source, options, linear)
    if not donor.rank:
        return None
    masks = _masks(source, options, linear, donor)
    return cosine(_under(donor, masks), _under(_target(source, options, linear, donor), masks))


def critical_entries(donor: Factors, second: Tensor | StoredRows, options: NlsrOptions) -> Masks:
    """Masks of the donor's factors from the second moments `[in, in]` of the matrix's inputs on safe answers.

    The left singular vectors of `W X` are the eigenvectors of `W C W^T`, `C` the second moment of the inputs: X for the
    factor A, `A X` for the factor B, whose second moment is `A C A^T`.
    """
    count = options.directions(donor.rank)
    inner_second = between(donor.a, second)
    values, vectors = torch.linalg.eigh(inner_second)
    root = vectors * values.clamp(min=0).sqrt()
    output = torch.linalg.svd(donor.b @ root, full_matrices=False).U
    return Masks(
        _largest(_projected(donor.b, output[:, :count]), options),
        _largest(_projected(donor.a, vectors[:, -count:]), options),
    )


def keep_probabilities(similarities: Sequence[float], options: NlsrOptions) -> list[float]:
    """Probability that each matrix stays as it is, in the order given; of equals the first counts as less similar.

    The probability is linear in the rank of the similarity. The deterministic gate repairs the least similar half, the
    middle matrix of an odd number included.
    """
    order = sorted(range(len(similarities)), key=lambda index: similarities[index])
    keeps = [0.0] * len(order)
    for place, index in enumerate(order):
        if options.gate == "deterministic":
            keeps[index] = float(place >= (len(order) + 1) // 2)
            continue
        height = place / max(len(order) - 1, 1)
        if options.gate == "code":
            height = 1 - height
        keeps[index] = options.keep_low + (options.keep_high - options.keep_low) * height
    return keeps


def merged(reference: Factors, target: Factors, masks: Masks, options: NlsrOptions) -> Factors:
    """Factors of the repaired change: the reference under the masks, the target elsewhere.

    The sum of products leaves out the products of a masked with an unmasked entry, so it differs from the target's
    change even where the reference is the target; its factors have twice the rank.
    """
    if options.merge == "code":
        return Factors(torch.where(masks.b, reference.b, target.b), torch.where(masks.a, reference.a, target.a))
    one, other = _under(reference, masks), _under(target, Masks(~masks.b, ~masks.a))
    return Factors(torch.cat([one.b, other.b], dim=1), torch.cat([one.a, other.a]))


def _repaired(source: Source, options: NlsrOptions, linear: Linear) -> Tensor:
    """The target's matrix, as stored, with its factored change replaced by the repaired one."""
    repaired, target = _joined(source, options, linear)
    by_adapters = _by_adapters(source, options)
    # Adapters go on the base, not on the target: so the edited one gives the same, whatever the target's rounding.
    made = source.weight("base" if by_adapters else "target", linear)
    for rows in pieces(*made.shape):
        change = repaired.b[rows] @ repaired.a
        if not by_adapters:
            change -= target.b[rows] @ target.a
        made[rows] = change.add_(made[rows])
    return source.stored(linear, made)


def _joined(source: Source, options: NlsrOptions, linear: Linear) -> tuple[Factors, Factors]:
    """Factors of the repaired change of a matrix, and of the target's."""
    donor = _donor(source, options, linear)
    target, masks = _target(source, options, linear, donor), _masks(source, options, linear, donor)
    return merged(donor.scaled(options.amplification), target, masks, options), target


def _by_adapters(source: Source, options: NlsrOptions) -> bool:
    """Whether the factors are those of the adapters of target and donor."""
    return options.factors != "svd" and has_own(source)


def _donor(source: Source, options: NlsrOptions, linear: Linear) -> Factors:
    """Factors of what alignment added, of rank 0 where it added nothing."""
    if _by_adapters(source, options):
        found = own(source, "donor", linear)
        outputs, inputs = source.shape(linear)
        return found or Factors(torch.zeros(outputs, 0).double(), torch.zeros(0, inputs).double())
    return factor(Weight(source, linear, "donor", "base"), options.rank).trimmed()


def _target(source: Source, options: NlsrOptions, linear: Linear, donor: Factors) -> Factors:
    """Factors of what the target has beyond the base model, of the donor's rank; those of a difference are turned onto
    the donor's."""
    if _by_adapters(source, options):
        return own(source, "target", linear) or Factors(torch.zeros_like(donor.b), torch.zeros_like(donor.a))
    return aligned(factor(Weight(source, linear, "target", "base"), donor.rank), donor)


def _masks(source: Source, options: NlsrOptions, linear: Linear, donor: Factors) -> Masks:
    return critical_entries(donor, source.moments("donor", "function", linear).second, options)


def _under(factors: Factors, masks: Masks) -> Factors:
    return Factors(factors.b * masks.b, factors.a * masks.a)


def _projected(weight: Tensor, directions: Tensor) -> Tensor:
    """`weight` `[out, in]` within the span of orthonormal `directions` `[out, count]`."""
    return directions @ (directions.T @ weight)


def _largest(values: Tensor, options: NlsrOptions) -> Tensor:
    """Mask of the largest magnitudes by row or in all; the rest, rounded down, is `sparsity` of the entries."""
    flat = values.abs() if options.mask_scope == "paper" else values.abs().reshape(1, -1)
    # A product such as 0.29 * 100 falls just short of the whole number that is meant.
    left_out = int(options.sparsity * flat.shape[1] + 1e-9)
    order = flat.argsort(dim=1, descending=True, stable=True)[:, : flat.shape[1] - left_out]
    return torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True).reshape(values.shape)


def _drawn(seed: int, tensor: str) -> float:
    """A number in [0, 1) that depends on the seed and the tensor's name alone."""
    return float(torch.rand((), generator=generator(seed, tensor), dtype=torch.float64))
