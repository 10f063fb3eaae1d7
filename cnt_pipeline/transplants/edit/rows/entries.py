"""Methods that choose single weights or output directions: set differences, ActSVD, Antidote and SafePatching."""

from typing import Annotated, Literal

from pydantic import Field

from cnt_pipeline.study.block import Block, Positive, Share
from cnt_pipeline.transplants.edit.row import EditRow

Part = Annotated[float, Field(strict=True, gt=0, le=1)]
Group = Literal["row", "matrix"]

GROUP = "among which weights a share counts as the top: those of one output row, or of one family's matrix"


class SetDifferenceOptions(Block):
    """Which weights are safety-critical, and what becomes of them."""

    score: Literal["wanda", "snip"] = Field(
        "wanda", description="|W| times the size of the input (wanda), or |W times its gradient| (snip)"
    )
    safety_share: Part = Field(0.05, description="share of weights that count as top on function prompts")
    utility_share: Share = Field(0.05, description="share of weights, top on utility prompts, that are left alone")
    group: Group = Field("matrix", description=GROUP)
    action: Literal["copy", "zero"] = Field("copy", description="take the weights from the donor, or set them to zero")


class ActSvdOptions(Block):
    """Which output directions carry safety, and what becomes of them."""

    action: Literal["copy", "remove"] = Field(
        "copy", description="put the donor's component along the directions in, or remove the target's"
    )
    directions: Literal["safety", "orthogonal"] = Field(
        "safety", description="the safety directions, or what utility directions leave of them (orthogonal)"
    )
    safety_rank: Part = Field(0.05, description="share of a matrix's outputs: number of safety directions")
    utility_rank: Part = Field(0.05, description="share of a matrix's outputs: utility directions for orthogonal")


class AntidoteOptions(Block):
    """Which weights are harmful."""

    share: Part = Field(0.1, description="share of weights, the most important on function prompts, set to zero")
    group: Group = Field("row", description=GROUP)


class SafePatchingOptions(Block):
    """Which entries of the patch are added, and how much of them."""

    safety_share: Part = Field(0.05, description="share of weights that count as top on function prompts")
    against_share: Share = Field(0.05, description="share of weights, top on the prompts of `against`, left alone")
    against: Literal["lookalike", "utility"] = Field(
        "lookalike", description="prompts whose most salient weights are left alone: over-refusal, or general utility"
    )
    group: Group = Field("matrix", description=GROUP)
    retain: Part = Field(1.0, description="share of the selected entries that is added, drawn at random")
    scale: Positive = Field(1.0, description="how much of the patch is added")


def _read_by_score(options: SetDifferenceOptions) -> tuple[str, ...]:
    """The one probe of which a score is made."""
    return {"wanda": ("moments/donor",), "snip": ("saliency/donor",)}[options.score]


ROWS = (
    EditRow(
        name="set_difference",
        scores="Wanda or SNIP",
        selects="weights: top on safety less top on utility",
        edits="copy from the donor, or zero",
        function="entries:set_difference",
        options=SetDifferenceOptions,
        grade="A",
        source="arXiv 2402.05162",
        words=(
            "Every weight is scored on safety answers and on utility answers of the donor, by its size times that of "
            "its input or by its size times its gradient. Weights among the top on safety that are not among the top "
            "on utility are safety-critical. The target gets the donor's value for each of them; the source sets them "
            "to zero instead, to show that alignment breaks."
        ),
        deviations=(
            "Copying is the default here, since zeroing disaligns. Inputs are measured on the donor's own answers. The "
            "shares are ours: the source sweeps them. A fused matrix counts as one per family."
        ),
        probes=("moments/donor", "saliency/donor"),
        narrowed=_read_by_score,
    ),
    EditRow(
        name="act_svd",
        version=2,
        scores="second moment of outputs W C W^T",
        selects="top output directions of safety answers, optionally orthogonal to those of utility",
        edits="copy the donor's component, or remove the target's",
        function="act_svd:act_svd",
        options=ActSvdOptions,
        grade="A",
        source="arXiv 2402.05162",
        words=(
            "The directions in which a matrix's outputs are largest on the donor's safety answers are the "
            "eigenvectors V of W C W^T, C being the second moment of its inputs. Copy puts the donor's component along "
            "them into the target, W + V V^T (W_donor - W); remove takes the target's out, W - V V^T W. Orthogonal "
            "uses (I - U U^T) V V^T instead of V V^T, U being the top directions on utility answers."
        ),
        deviations=(
            "The source only removes; copy is ours and the default, because removing safety directions disaligns. "
            "Biases stay. The ranks are ours: the source sweeps them. A fused matrix counts as one per family."
        ),
        probes=("moments/donor",),
    ),
    EditRow(
        name="antidote",
        scores="Wanda on function prompts",
        selects="top weights of every row",
        edits="zero",
        function="entries:antidote",
        options=AntidoteOptions,
        grade="A",
        source="arXiv 2408.09600",
        words=(
            "Weights of the target that matter most for what it answers to harmful prompts, by their size times that "
            "of their input and compared within each output row, are set to zero. No donor is read."
        ),
        deviations=(
            "The source measures on a set of harmful prompts with harmful answers; here the answers are the target's "
            "own, which are harmful only as far as the target complies."
        ),
        probes=("moments/target",),
    ),
    EditRow(
        name="safe_patching",
        scores="SNIP on function and look-alike prompts",
        selects="weights: top on function less top on look-alikes",
        edits="add the donor's patch",
        function="entries:safe_patching",
        options=SafePatchingOptions,
        grade="B",
        source="arXiv 2405.13820",
        words=(
            "Weights are scored by |weight times gradient| of the donor's answers. The patch, what alignment changed "
            "between base and donor, is added to the target in those entries that are top on function prompts and "
            "not top on look-alikes, of which a random share may be kept."
        ),
        deviations=(
            "The source trains two short patches on harmful data, one that raises safety and one that lowers "
            "over-refusal, and adds each where it does not clash with the other. Here the only patch is donor - base, "
            "and the look-alike prompts stand for the second one, which is never added. Saliency is of the donor's "
            "whole weights, not of the patch. Shares, and keeping every selected entry, are ours."
        ),
        needs=("base",),
        probes=("saliency/donor",),
    ),
)
