"""Projection of fine-grained safety neurons (FGSN, later MSCP), and its control."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from cnt_pipeline.study.block import Block, Count, Positive, Share, Weight
from cnt_pipeline.transplants.edit.row import EditRow

Layer = Annotated[int, Field(strict=True, ge=0)]


class FgsnZeroOptions(Block):
    """Which rows are safety neurons, and from which model fine-tuning started."""

    layers: tuple[Layer, ...] = Field(
        (), description="safety layers, counted from 0; empty finds them by the gap between hidden states"
    )
    start_growth: Positive = Field(
        1e-3, description="growth of the gap in mean cosine above which the first safety layer lies"
    )
    keep_growth: Weight = Field(1e-4, description="growth of the gap above which the next layer still belongs")
    harmful_share: Share = Field(0.4, description="share of rows, the most important on harmful prompts, that qualify")
    benign_share: Share = Field(
        0.2, description="share of rows, the most important on benign prompts, that are taken out again"
    )
    pool: Literal["matrix", "layers"] = Field(
        "matrix", description="rank the rows of every matrix by themselves, or those of all safety layers together"
    )
    tuned_from: Literal["base", "donor"] = Field(
        "base", description="model that the target was fine-tuned from: its difference to this model is what is edited"
    )

    @field_validator("layers")
    @classmethod
    def _each_once(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(value)) != len(value):
            raise ValueError("list each layer once")
        return tuple(sorted(value))


class FgsnOptions(FgsnZeroOptions):
    """Which rows are safety neurons, and how they are projected on the safety direction."""

    form: Literal["lora", "full"] = Field(
        "lora", description="project what fine-tuning changed, or blend the projected weights in"
    )
    scale: Literal["fro", "numel", "in", "projector"] = Field(
        "fro",
        description="what D D^T is divided by: the Frobenius norm of D, its number of entries, its number of inputs; "
        "projector takes U_k U_k^T of the largest directions of D instead",
    )
    directions: Count = Field(
        32,
        description="largest directions of D that the projector keeps (the k of U_k); with as many as D has rows "
        "nothing changes",
    )
    rank: Count | None = Field(
        None,
        description="rank of the fine-tuning LoRA, to which the difference is cut in the masked "
        "rows; left out, the whole difference is projected, which for a LoRA of any rank is the same",
    )
    blend: Positive = Field(0.05, description="share of the projected weights in the full form, at most 0.5")

    @field_validator("blend")
    @classmethod
    def _keeps_neurons(cls, value: float) -> float:
        if value > 0.5:
            raise ValueError(
                "more than half of a neuron replaced by its projection erases it, since the projection of whole "
                "weights is small; choose at most 0.5"
            )
        return value


WORDS = (
    "Safety layers are the first run of layers in which last-token hidden states of harmful prompts drift away from "
    "those of benign prompts. In them a row matters by the sum of |weight| times the size of its input; rows among the "
    "most important on harmful but not on benign prompts are the safety neurons. A study's safety dimensions "
    "(`compare.dimensions`) are worked beside this, one after the other, each on rows that no earlier one edited. "
)
DEVIATIONS = (
    "Known from a reimplementation, not from the authors' code. Importance is that of the aligned model's weights on "
    "its own answers; utility prompts stand for benign ones; mean cosines are over all pairs, none drawn; the last "
    "layer is never a safety layer, since its recorded state has passed the final norm; rows of a fused matrix are "
    "ranked together. "
)


def _read_with_layers(options: FgsnZeroOptions) -> tuple[str, ...]:
    """Hidden states only find the safety layers: they are not read where the study names those."""
    return ("moments/donor",) if options.layers else ("moments/donor", "hidden_state/donor")


ROWS = (
    EditRow(
        name="fgsn",
        version=2,
        scores="sum of |W| times input size, harmful and benign",
        selects="rows of the safety layers: top on harmful less top on benign",
        edits="project the fine-tuning difference on the alignment direction",
        function="fgsn:fgsn",
        options=FgsnOptions,
        grade="B",
        source="arXiv 2508.09190",
        words=WORDS
        + "In these rows the fine-tuning difference is replaced by its projection D D^T / scale, D being what "
        "alignment changed in the matrix; all other rows stay as they are.",
        deviations=DEVIATIONS
        + "The factor A cancels out of B' A = (W_safe B) A = W_safe (B A), so the difference of the weights is "
        "projected without factoring it, which for a LoRA is the same; `rank` cuts it by SVD first, and what it cuts "
        "leaves the masked rows. The difference is taken to the base model unless `tuned_from: donor` says that the "
        "aligned model was fine-tuned. A matrix that alignment left as it was has no direction and stays.",
        needs=("base",),
        probes=("moments/donor", "hidden_state/donor"),
        continual=True,
        narrowed=_read_with_layers,
    ),
    EditRow(
        name="fgsn_zero",
        scores="sum of |W| times input size, harmful and benign",
        selects="rows of the safety layers: top on harmful less top on benign",
        edits="return the rows to the base model",
        function="fgsn:fgsn_zero",
        options=FgsnZeroOptions,
        grade="B",
        source="arXiv 2508.09190 (control)",
        words=WORDS
        + "The control of fgsn: what fine-tuning added to these rows is dropped, so that they are those of the model "
        "it started from. "
        "What fgsn repairs beyond this is due to the direction of its projection.",
        deviations=DEVIATIONS,
        needs=("base",),
        probes=("moments/donor", "hidden_state/donor"),
        continual=True,
        narrowed=_read_with_layers,
    ),
)
