"""Neuron-level safety realignment (methods section 2) as a row of the table."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cnt_pipeline.study.block import Count, Name, Share, Text, Weight
from cnt_pipeline.transplants.edit.row import EditRow, FactorOptions

CODE_AMPLIFICATION = 3.24
PUBLISHED_RANK = 128
PUBLISHED_DIRECTIONS = {"paper": 25, "code": 102}
"""Directions taken of an adapter of the published rank."""

BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
OpenShare = Annotated[float, Field(strict=True, gt=0, lt=1)]


class NlsrOptions(FactorOptions):
    """What a study may set of neuron-level safety realignment."""

    beta: Weight = Field(0.9, description="how far the reference goes beyond the donor, away from the base model")
    amplify: Literal["paper", "code"] = Field(
        "paper", description="the donor's change in the reference: times 1 + beta (paper), or times 3.24 (code)"
    )
    rank: Count = Field(
        128, description="rank of the factors of each change, at most the matrix's; an adapter's own where it is known"
    )
    rank_mode: Literal["paper", "code"] = Field(
        "paper", description="output directions that count: 25 (paper) or 102 (code) in 128, scaled to the rank in use"
    )
    safety_rank: Count | OpenShare | None = Field(
        None, description="output directions that count, as a number or as a share of the rank; by default by rank_mode"
    )
    sparsity: BelowOne = Field(0.8, description="share of a factor's entries that is not safety-critical")
    mask_scope: Literal["paper", "code"] = Field(
        "paper", description="where the largest entries are sought: in each row (paper), or in the whole factor (code)"
    )
    gate: Literal["paper", "code", "deterministic"] = Field(
        "paper",
        description=(
            "which matrices are repaired: drawn, the least similar the likeliest (paper) or the most similar (code), "
            "or the least similar half (deterministic)"
        ),
    )
    keep_low: Share = Field(0.3, description="probability that a matrix stays, at the end that is repaired the most")
    keep_high: Share = Field(0.7, description="probability that a matrix stays, at the end that is repaired the least")
    merge: Literal["paper", "code"] = Field(
        "paper",
        description="how reference and target join: the sum of two masked products (paper), or factor by factor (code)",
    )
    families: tuple[Name, ...] | None = Field(None, description="neuron families to look at, by default all of them")
    modules: tuple[Text, ...] | None = Field(
        None, description="modules to look at, as patterns such as *.self_attn.*, by default all of them"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        written = self.model_fields_set
        if self.amplify == "code" and "beta" in written:
            raise ValueError(f"amplify: code multiplies by {CODE_AMPLIFICATION} whatever beta is; leave beta out")
        if self.safety_rank is not None and "rank_mode" in written:
            raise ValueError("safety_rank says what rank_mode would: leave one of them out")
        if self.gate == "deterministic" and written & {"keep_low", "keep_high"}:
            raise ValueError("gate: deterministic draws nothing; leave keep_low and keep_high out")
        if self.keep_low > self.keep_high:
            raise ValueError("keep_low is above keep_high; to repair the most similar first, set gate: code")
        for name, value in (("families", self.families), ("modules", self.modules)):
            if value is not None and not value:
                raise ValueError(f"{name} is empty: list at least one, or leave {name} out")
        return self

    @property
    def amplification(self) -> float:
        """How many times the donor's change the reference has."""
        return CODE_AMPLIFICATION if self.amplify == "code" else 1 + self.beta

    def directions(self, rank: int) -> int:
        """How many output directions count in factors of `rank`: at least one, at most all."""
        if self.safety_rank is None:
            wanted = PUBLISHED_DIRECTIONS[self.rank_mode] * rank // PUBLISHED_RANK
        elif isinstance(self.safety_rank, int):
            wanted = self.safety_rank
        else:
            wanted = int(self.safety_rank * rank)
        return min(max(wanted, 1), rank)


ROWS: tuple[EditRow, ...] = (
    EditRow(
        name="nlsr",
        version=2,
        scores="share of a factor's entries in its top output directions on safe answers; cosine to the reference",
        selects="the top fifth of the entries, in the matrices drawn as most damaged",
        edits="takes those entries from the amplified donor",
        function="nlsr:nlsr",
        options=NlsrOptions,
        grade="A",
        source="arXiv 2412.12497",
        words=(
            "Split what alignment (donor) and the user's fine-tuning (target) added to the base model into two "
            "low-rank factors per matrix; the reference is the donor's addition, amplified. In each factor, the "
            "entries that matter for safety are the largest after projection on the strongest output directions for "
            "safe answers. Matrices whose safety-critical parts have drifted furthest from the reference, by cosine, "
            "are the likeliest to be repaired: there these entries come from the reference and the others from the "
            "target."
        ),
        deviations=(
            "Where donor and target are both made from the base model by adapters of equal ranks, trained here or "
            "given, their own factors are edited as in the paper, entry by entry, and the repaired adapter is written "
            "beside the checkpoint; this has its meaning where the target's adapter was trained on from the donor's. "
            "From full weights, each model's difference to the base model is "
            "factored by a balanced truncated SVD, and the target's factors are turned onto the donor's (orthogonal "
            "Procrustes), without which their entries could not be compared. Such factors carry most in their first "
            "directions, where a trained adapter spreads, so the masks are not those of the adapter. What the factors "
            "leave of the target's difference stays in place. Activations are the donor's, not the amplified "
            "reference's, and every answer weighs the same whatever its length. Where the authors' code departs from "
            "the paper (amplify, rank_mode, mask_scope, gate, merge) the paper's reading is the default. Matrices in "
            "which the donor equals the base model are not ranked."
        ),
        needs=("base",),
        probes=("moments/donor",),
    ),
)
