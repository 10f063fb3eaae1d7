"""What fine-tuning added to a weight matrix, as the two factors that a LoRA adapter has.

Methods that are defined on an adapter's factors meet studies that hold full weights only. `factor` splits the
difference of a model to the model it came from, `W - W_base ~= B A`, by a truncated singular value decomposition;
`aligned` turns the factors of one model so that their entries can be compared with those of another. Where target and
donor are made by adapters, `own` gives the factors that were trained.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from cnt_pipeline.transplants.edit.blockwise import times, transposed_times
from cnt_pipeline.transplants.edit.source import Linear, Source, generator
from cnt_pipeline.transplants.edit.weights import Rowwise, Weight, held

EXACT_SIDE = 1024
"""Matrices whose smaller side is at most this are decomposed in full; larger ones by subspace iteration."""
OVERSAMPLING = 16
"""How many directions subspace iteration carries beyond those it is asked for."""
PASSES = 4
"""How often subspace iteration goes through the matrix and back."""
PREFERENCE = 1e-3
"""How much more B weighs, and how much less A, in the choice of a turn: what settles ties."""


@dataclass(frozen=True, eq=False)
class Factors:
    """A matrix `b a` of low rank: `b` `[out, rank]`, `a` `[rank, in]`, float64."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        """How many columns `b` and rows `a` have."""
        return self.b.shape[1]

    def product(self) -> Tensor:
        """The matrix itself, `[out, in]`."""
        return self.b @ self.a

    def scaled(self, scale: float) -> "Factors":
        """Factors of `scale` times the matrix (`scale` >= 0), each factor taking its square root."""
        return Factors(self.b * scale**0.5, self.a * scale**0.5)

    def trimmed(self) -> "Factors":
        """Balanced factors without the directions that rounding of the weights to float32 alone could have left.

        As in the usual numerical rank: singular values up to the largest times float32's epsilon times the longer side.
        Factors of a zero matrix keep none.
        """
        values = self.b.square().sum(0)
        dust = values.max() * torch.finfo(torch.float32).eps * max(len(self.b), self.a.shape[1])
        count = int((values > dust).sum())
        return Factors(self.b[:, :count], self.a[:count])


def factor(matrix: Rowwise, rank: int) -> Factors:
    """Balanced factors of the best approximation of `matrix` `[out, in]` by a rank, at most its smaller side.

    With the singular value decomposition `U S V^T`, B is `U sqrt(S)` and A is `sqrt(S) V^T`, so both carry the scale
    alike. Large matrices are decomposed by randomised subspace iteration (Halko, Martinsson, Tropp 2011, section 4.5):
    exact to rounding where the matrix has no more than `rank` directions, as an adapter's has, and otherwise as close
    as the decay of its singular values allows. The same matrix always gives the same factors.

    Subspace iteration holds the matrix once, in float32 where it is read. A full decomposition takes the memory of
    about eight such matrices, which comes to more than 130 MB only where a rank of a quarter of the smaller side or
    more is asked for.
    """
    side = min(matrix.shape)
    rank = min(rank, side)
    if side <= EXACT_SIDE or 4 * rank >= side:
        whole = matrix.whole(torch.float64) if isinstance(matrix, Weight) else matrix.double()
        left, values, right = torch.linalg.svd(whole, full_matrices=False)
    else:
        left, values, right = _leading(held(matrix) if isinstance(matrix, Weight) else matrix, rank)
    root = values[:rank].sqrt()
    return Factors(left[:, :rank] * root, root[:, None] * right[:rank])


def aligned(factors: Factors, to: Factors) -> Factors:
    """The same matrix as `factors` in the factors nearest to those of `to` (equal rank).

    `B A = (B Q)(Q^T A)` for every orthogonal Q, so entries of two decompositions mean nothing to each other until Q is
    chosen. Taken is the Q that minimises `||B Q - B_to||^2 + ||Q^T A - A_to||^2` (orthogonal Procrustes problem), with
    a trace more weight on B: square matrices of full rank whose determinants differ in sign have two such Q otherwise.
    """
    outputs, inputs = factors.b.T @ to.b, factors.a @ to.a.T
    left, _, right = torch.linalg.svd((1 + PREFERENCE) * outputs + (1 - PREFERENCE) * inputs)
    turn = left @ right
    return Factors(factors.b @ turn, turn.T @ factors.a)


def has_own(source: Source) -> bool:
    """Whether target and donor have adapters on the base model whose factors can be compared entry by entry: with the
    same rank wherever both have factors."""
    if not {"target", "donor"} <= source.adapters.keys():
        return False
    target, donor = (source.adapters[role].factors for role in ("target", "donor"))
    return all(len(donor[module][0]) == len(target[module][0]) for module in donor.keys() & target.keys())


def own(source: Source, model: str, linear: Linear) -> Factors | None:
    """The factors that the adapter of a model has for a matrix, each with the square root of the adapter's scale.

    None where it has none, or where their product is zero.
    """
    adapters = source.adapters[model]
    if linear.module not in adapters.factors:
        return None
    a, b = adapters.factors[linear.module]
    factors = Factors(b.double(), a.double()).scaled(adapters.scale(linear.module))
    return factors if inner(factors, factors) > 0 else None


def inner(one: Factors, other: Factors) -> float:
    """Sum over entries of the product of two matrices, without forming either."""
    return float(((one.b.T @ other.b) * (one.a @ other.a.T)).sum())


def cosine(one: Factors, other: Factors) -> float:
    """Cosine between two matrices read as vectors; 0 where one of them is zero."""
    norms = inner(one, one) * inner(other, other)
    return inner(one, other) / norms**0.5 if norms > 0 else 0.0


def _leading(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The leading singular vectors and values of `matrix`, a few more than `rank` of them."""
    rows, columns = matrix.shape
    lot = generator(0, f"sketch of {rows} x {columns}")
    sketch = torch.randn(columns, min(rank + OVERSAMPLING, rows, columns), generator=lot, dtype=torch.float64)
    basis = torch.linalg.qr(times(matrix, sketch)).Q
    for _ in range(PASSES):
        basis = torch.linalg.qr(transposed_times(matrix, basis)).Q
        basis = torch.linalg.qr(times(matrix, basis)).Q
    left, values, right = torch.linalg.svd(transposed_times(matrix, basis).T, full_matrices=False)
    return basis @ left, values, right
