"""Fine-grained safety neurons: rows that matter on harmful, not on benign prompts, projected on what alignment changed.

Source: arXiv 2508.09190 (FGSN, later MSCP; grade B of methods.md, section 3).

Several safety dimensions, one after the other: give each its own `Source` (its harmful prompts in the probes; as
target, the checkpoint that the dimension before wrote) and pass `decide` the masks of all earlier ones:

    first = decide(source_1, options).masks
    fgsn(source_1, options, seed, first)                        # writes the target of source_2
    second = decide(source_2, options, [first]).masks           # holds no row of the first
    fgsn(source_2, options, seed, second)
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit.blockwise import pieces, squares
from cnt_pipeline.transplants.edit.lora_factors import factor
from cnt_pipeline.transplants.edit.rows.fgsn import FgsnOptions, FgsnZeroOptions
from cnt_pipeline.transplants.edit.safety_layers import BENIGN, HARMFUL, read_gaps, safety_layers
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source
from cnt_pipeline.transplants.edit.weights import Rowwise, Weight

Masks = Mapping[str, Tensor]
"""Chosen rows of each stored matrix, bool `[out]` by tensor name."""

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are rounding and give no direction."""


@dataclass(frozen=True, eq=False)
class Decision:
    """What was decided before any weight changed.

    `layers`: safety layers, from 0. `gaps`: the gap after the embedding and every layer, empty where the study named
    the layers. `masks`: the rows to edit. `parameters`: how many weights they hold; `share`: of all of the target's.
    """

    layers: tuple[int, ...]
    gaps: tuple[float, ...]
    masks: Masks
    parameters: int
    share: float

    @property
    def rows(self) -> dict[str, int]:
        """How many rows of each matrix are edited, by tensor name."""
        return {name: int(mask.sum()) for name, mask in self.masks.items()}


def fgsn(source: Source, options: FgsnOptions, seed: int, masks: Masks | None = None) -> Edits:
    """Project the safety neurons' rows on the alignment direction, those of `masks` where they were decided before.

    Draws nothing.

    Raises:
        InputError: no safety layers or no rows are found, or base and aligned model do not differ in them.
    """
    make = _projected if options.form == "lora" else _blended
    return _edits(source, options, masks, partial(make, source, options))


def fgsn_zero(source: Source, options: FgsnZeroOptions, seed: int, masks: Masks | None = None) -> Edits:
    """The control: the same rows go back to the model that fine-tuning started from. Draws nothing.

    Raises:
        InputError: as `fgsn`.
    """
    return _edits(source, options, masks, partial(_returned, source, options))


def _edits(
    source: Source, options: FgsnZeroOptions, masks: Masks | None, make: Callable[[Linear, Tensor], Tensor]
) -> Edits:
    masks = decide(source, options).masks if masks is None else masks
    linears = {linear.tensor: linear for linear in source.linears}
    return {name: partial(make, linears[name], mask) for name, mask in masks.items() if mask.any()}


def decide(source: Source, options: FgsnZeroOptions, earlier: Sequence[Masks] = ()) -> Decision:
    """Find the safety layers and, in each of their matrices, the rows to edit: those of no earlier dimension.

    Raises:
        InputError: a layer that the model lacks, no safety layer, no row left, or an aligned model that equals the base
            model in every safety layer.
    """
    layers, gaps = _layers(source, options)
    harmful: dict[str, Tensor] = {}
    benign: dict[str, Tensor] = {}
    width: dict[str, int] = {}
    for linear in source.linears:
        if linear.layer not in layers:
            continue
        weight, aligned = Weight(source, linear, "donor"), Weight(source, linear, "donor", "base")
        if not any(aligned[part].any() for part in pieces(*aligned.shape)):
            continue
        width[linear.tensor] = weight.shape[1]
        harmful[linear.tensor] = row_importance(weight, source.moments("donor", HARMFUL, linear).norms)
        benign[linear.tensor] = row_importance(weight, source.moments("donor", BENIGN, linear).norms)
    if not width:
        raise InputError(
            f"aligned and base model are equal in the safety layers {list(layers)}, which leaves no direction of "
            "alignment: give as `base:` the model before alignment, or name other `layers:`"
        )
    together = options.pool == "layers"
    found = row_masks(harmful, benign, options.harmful_share, options.benign_share, together)
    masks = continual_masks([*earlier, found])[-1]
    parameters = sum(int(mask.sum()) * width[name] for name, mask in masks.items())
    if not parameters:
        where = "that no earlier dimension holds " if earlier and any(mask.any() for mask in found.values()) else ""
        raise InputError(
            f"no row {where}is important on harmful but not on benign prompts: raise `harmful_share:` or lower "
            "`benign_share:`"
        )
    whole = sum(math.prod(source.models["target"][name].shape) for name in source.floats)
    return Decision(layers, gaps, masks, parameters, parameters / whole)


def row_importance(weight: Rowwise, norms: Tensor) -> Tensor:
    """Importance of every row, `[out]`: the sum over inputs j of `|W_ij|` times the size `norms[j]` of the input."""
    return torch.cat([weight[part].abs() @ norms for part in pieces(*weight.shape)])


def row_masks(
    harmful: Mapping[str, Tensor], benign: Mapping[str, Tensor], top: float, less: float, together: bool = False
) -> dict[str, Tensor]:
    """The top share `top` of rows on harmful prompts less the top share `less` on benign ones, by matrix.

    Scores are `[out]` by matrix; `together` ranks the rows of all matrices in one list. Shares are rounded to the
    nearest number of rows; of equal scores the earlier row comes first.
    """
    if not together:
        return {name: _top(harmful[name], top) & ~_top(benign[name], less) for name in harmful}
    sizes = [len(scores) for scores in harmful.values()]
    mask = _top(torch.cat(list(harmful.values())), top) & ~_top(torch.cat([benign[name] for name in harmful]), less)
    return dict(zip(harmful, torch.split(mask, sizes), strict=True))


def continual_masks(masks: Sequence[Masks]) -> list[dict[str, Tensor]]:
    """Each safety dimension's mask without the rows of all dimensions before it: no row is edited twice."""
    taken: dict[str, Tensor] = {}
    disjoint = []
    for dimension in masks:
        disjoint.append({name: mask & ~taken[name] if name in taken else mask for name, mask in dimension.items()})
        taken |= {name: taken[name] | mask if name in taken else mask for name, mask in dimension.items()}
    return disjoint


def project_rows(direction: Rowwise, columns: Rowwise, rows: Tensor, scale: str, directions: int) -> Tensor:
    """The chosen rows of `W_safe columns`, `[chosen, n]` float32, without holding W_safe `[out, out]`.

    `direction` is D `[out, in]`, `columns` `[out, n]`, `rows` bool `[out]`. `W_safe` is `D D^T` over the Frobenius norm
    of D (`fro`), its number of entries (`numel`) or its number of columns (`in`), or (`projector`) `U U^T` of its
    `directions` largest left singular vectors. Of D and the columns, no more than the chosen rows are held.
    """
    height, width = direction.shape
    over = columns.shape[1]
    if scale == "projector":
        left = left_directions(direction, directions).float()
        return left[rows] @ _summed(left, columns)
    chosen = torch.cat([direction[part][rows[part]] for part in pieces(height, width)])
    sizes = {"numel": height * width, "in": width}
    divisor = float(sizes[scale] if scale in sizes else squares(direction, "row").sum().sqrt())
    # Both orders give the same; the one with the smaller product in between saves memory.
    if len(chosen) * height < width * over:
        found = torch.zeros(len(chosen), over)
        for part in pieces(height, max(width, over)):
            found.addmm_(chosen @ direction[part].T, columns[part])
        return found.div_(divisor)
    return (chosen @ _summed(direction, columns)).div_(divisor)


def _summed(one: Rowwise, other: Rowwise) -> Tensor:
    """`one^T other` `[in, n]` in float32."""
    (height, width), over = one.shape, other.shape[1]
    found = torch.zeros(width, over)
    for part in pieces(height, max(width, over)):
        found.addmm_(one[part].T, other[part])
    return found


def left_directions(matrix: Rowwise, count: int) -> Tensor:
    """The `count` largest left singular vectors, `[out, at most count]` float64, without those of rounding alone."""
    scaled = factor(matrix, count).b
    sizes = scaled.norm(dim=0)  # roots of the singular values
    kept = sizes**2 > NEGLIGIBLE * sizes.max() ** 2
    left: Tensor = scaled[:, kept] / sizes[kept]
    return left


def _layers(source: Source, options: FgsnZeroOptions) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The safety layers, and the gaps that decided."""
    if options.layers:
        if max(options.layers) >= source.architecture.layers:
            raise InputError(
                f"`layers:` names layer {max(options.layers)}, but the model has the layers 0 to "
                f"{source.architecture.layers - 1}: name some of these"
            )
        return options.layers, ()
    gaps = read_gaps(source.probe("hidden_state", "donor"), source.probe("hidden_state", "donor", HARMFUL))
    return safety_layers(gaps, options.start_growth, options.keep_growth), gaps


def _top(scores: Tensor, share: float) -> Tensor:
    """Which scores are among the largest, bool `[n]`."""
    best = torch.argsort(scores, descending=True, stable=True)[: math.floor(share * len(scores) + 0.5)]
    return torch.zeros(len(scores), dtype=torch.bool).index_fill_(0, best, True)


def _projected(source: Source, options: FgsnOptions, linear: Linear, mask: Tensor) -> Tensor:
    """Masked rows: start + (W_safe B) A, where B A is what fine-tuning changed (whole, A is 1)."""
    direction = Weight(source, linear, "donor", "base")
    change = Weight(source, linear, "target", options.tuned_from)
    project = partial(project_rows, direction, rows=mask, scale=options.scale, directions=options.directions)
    if options.rank is None:
        rows = project(change)
    else:
        factors = factor(change, options.rank)
        rows = project(factors.b.float()) @ factors.a.float()
    return _replaced(source, linear, mask, options.tuned_from, rows)


def _blended(source: Source, options: FgsnOptions, linear: Linear, mask: Tensor) -> Tensor:
    """Masked rows: (1 - c) target + c W_safe target."""
    direction, whole = Weight(source, linear, "donor", "base"), Weight(source, linear, "target")
    rows = project_rows(direction, whole, mask, options.scale, options.directions).mul_(options.blend)
    return _replaced(source, linear, mask, "target", rows, 1 - options.blend)


def _returned(source: Source, options: FgsnZeroOptions, linear: Linear, mask: Tensor) -> Tensor:
    """Masked rows: those of the model that fine-tuning started from."""
    return _replaced(source, linear, mask, options.tuned_from)


def _replaced(
    source: Source, linear: Linear, mask: Tensor, start: str, change: Tensor | None = None, keep: float = 1.0
) -> Tensor:
    """The target's matrix as stored; its masked rows are `keep` times those of the model `start`, plus `change`."""
    new = source.weight("target", linear)
    done = 0
    for part in pieces(*new.shape):
        chosen = mask[part]
        rows = source.rows(start, linear, part)[chosen] * keep
        if change is not None:
            rows += change[done : done + len(rows)]
        new[part][chosen] = rows
        done += len(rows)
    return source.stored(linear, new)
