"""Rows that combine whole checkpoints or fuse back a subspace of the alignment difference."""

from typing import Annotated, Literal

from pydantic import Field

from cnt_pipeline.study.block import Block, Count, Share, Weight
from cnt_pipeline.transplants.edit.row import EditRow

Density = Annotated[float, Field(strict=True, gt=0, le=1)]
Tensors = Literal["linear", "all"]
Rescale = Literal["density", "l1", "none"]

TENSORS = "which tensors are edited: the layers' weight matrices, or every floating-point tensor"
RESCALE = (
    "what follows dropping: divide by the density, restore each tensor's sum of absolute values (l1), or leave as is"
)


class TaskArithmeticOptions(Block):
    """Options of `task_arithmetic`."""

    gamma: Annotated[float, Field(strict=True)] = Field(
        default=1.0, description="how much of the safety vector is added; negative subtracts it"
    )
    density: Density = Field(default=1.0, description="share of the safety vector's entries that survive dropping")
    rescale: Rescale = Field(default="density", description=RESCALE)
    tensors: Tensors = Field(default="linear", description=TENSORS)


class TiesOptions(Block):
    """Options of `ties`."""

    target_density: Density = Field(default=0.2, description="share of the target's task vector kept in each tensor")
    donor_density: Density = Field(default=0.2, description="share of the donor's task vector kept in each tensor")
    target_weight: Weight = Field(default=1.0, description="weight of the target's task vector")
    donor_weight: Weight = Field(default=1.0, description="weight of the donor's task vector")
    majority_sign_method: Literal["total", "count"] = Field(
        default="total", description="sign of an entry by the sum of weighted values, or by the count of signs"
    )
    normalize: bool = Field(default=True, description="divide by the weights of the models that agree with the sign")
    scale: Weight = Field(default=1.0, description="factor on the merged task vector (lambda)")
    tensors: Tensors = Field(default="linear", description=TENSORS)


class DareOptions(Block):
    """Options of `dare`."""

    target_density: Density = Field(default=0.5, description="probability that an entry of the target's vector stays")
    donor_density: Density = Field(default=0.5, description="probability that an entry of the donor's vector stays")
    rescale: Rescale = Field(default="density", description=RESCALE)
    target_weight: Weight = Field(default=0.5, description="weight of the target's task vector")
    donor_weight: Weight = Field(default=0.5, description="weight of the donor's task vector")
    majority_sign_method: Literal["none", "total", "count"] = Field(
        default="none", description="sign election after dropping, as in ties; none adds the vectors up"
    )
    normalize: bool = Field(default=False, description="divide by the sum of the weights that were added up")
    scale: Weight = Field(default=1.0, description="factor on the merged task vector (lambda)")
    tensors: Tensors = Field(default="linear", description=TENSORS)


class LoxOptions(Block):
    """Options of `lox`."""

    rank: Count = Field(default=6, description="singular directions of the alignment difference that are added")
    coefficient: Weight = Field(default=1.25, description="how much of that part is added")


class LssfOptions(Block):
    """Options of `lssf`."""

    entropy: Density = Field(default=0.85, description="share of the spectral entropy that the kept directions carry")
    spectrum: Literal["squared", "plain"] = Field(
        default="squared", description="whether probabilities are squared singular values or singular values"
    )
    alpha: Weight = Field(default=1.0, description="how much of the low-rank part is added")


class SafeLoraOptions(Block):
    """Options of `safe_lora`."""

    start: Literal["donor", "base"] = Field(
        default="donor", description="the model that user fine-tuning started from; the update is what it added to it"
    )
    rank: Count | None = Field(
        default=None, description="rank of the update's truncated factors; without it the whole difference is projected"
    )
    tau: Share = Field(
        default=0.35, description="an update is projected where its cosine to the projection is at most this"
    )
    matrices: Count | None = Field(
        default=None, description="instead of `tau`: how many of the least similar matrices are projected"
    )
    projector: Literal["paper", "orthogonal"] = Field(
        default="paper", description="V V^T / ||V||_F, or the orthogonal projector on the columns of V"
    )
    projector_rank: Count | None = Field(
        default=None, description="leading directions of V that the orthogonal projector keeps; default all"
    )


BASE = "The study's base model stands for the unaligned one. "

ROWS: tuple[EditRow, ...] = (
    EditRow(
        name="task_arithmetic",
        scores="none",
        selects="every entry, or a random share",
        edits="adds the safety vector",
        function="merging:task_arithmetic",
        options=TaskArithmeticOptions,
        grade="A",
        source="Bhardwaj, Anh, Poria: Language Models are Homer Simpson! (RESTA), arXiv 2402.11746; Ilharco et al.: "
        "Editing Models with Task Arithmetic, arXiv 2212.04089",
        words="The safety vector is the aligned model minus the unaligned one, tensor by tensor. RESTA adds gamma "
        "times this vector to the fine-tuned weights. With a density below one, a random share of its entries is "
        "dropped first and the rest scaled up.",
        deviations=BASE + "RESTA makes its unaligned model by fine-tuning the aligned one on harmful answers, so its "
        "vector is purer than a difference to the base model. Its dropping acts, as far as we know, on the "
        "fine-tuned model's own differences; ours acts on the safety vector. By default only the "
        "layers' weight matrices change.",
        needs=("base",),
    ),
    EditRow(
        name="ties",
        scores="size of task vector entries",
        selects="the largest entries of each tensor whose sign wins",
        edits="base plus the mean of agreeing entries",
        function="merging:ties",
        options=TiesOptions,
        grade="A",
        source="Yadav et al.: TIES-Merging, arXiv 2306.01708; trimming and election as mergekit documents them",
        words="Target and donor are written as the base model plus a task vector each. Each vector keeps its largest "
        "entries by magnitude. Each entry's sign is elected by the sum of the weighted values (or by the count of "
        "signs), a draw counting as positive; what agrees with it is averaged and added to the base model.",
        deviations="Entries are trimmed tensor by tensor, as mergekit does; the paper trims the flattened model. "
        "int(density * size) entries stay, but at least one; equal magnitudes stay in stored order. Sums of exactly "
        "zero count as positive (mergekit), where the paper gives them the majority sign of the model. By default "
        "only the layers' weight matrices are merged; all else stays the target's. Beside mergekit 0.1.5 every entry "
        "of the same tensors agreed within 1e-7 of the largest, but for which of equal magnitudes its sort kept.",
        needs=("base",),
    ),
    EditRow(
        name="dare",
        scores="none",
        selects="random entries of both task vectors",
        edits="base plus the rescaled vectors",
        function="merging:dare",
        options=DareOptions,
        grade="A",
        source="Yu et al.: Language Models are Super Mario (DARE), arXiv 2311.03099; variants as mergekit documents "
        "them",
        words="Target and donor are written as the base model plus a task vector each. Every entry of a vector is "
        "dropped with probability 1 - density; the rest is divided by the density, so that its expectation stays. The "
        "weighted vectors are added to the base model, after a sign election as in TIES where one is asked for.",
        deviations="The rescale that restores each tensor's sum of absolute values is mergekit's option, not the "
        "paper's. Densities and weights are our defaults. By default only the layers' weight matrices are merged; "
        "all else stays the target's. Given the same draw, mergekit 0.1.5 agreed within 1e-7 of the largest entry.",
        needs=("base",),
    ),
    EditRow(
        name="lox",
        version=2,
        scores="singular values of the alignment difference",
        selects="the leading directions of each matrix",
        edits="adds their part of the difference",
        function="subspace:lox",
        options=LoxOptions,
        grade="A",
        source="Perin et al.: LoX, Low-Rank Extrapolation Robustifies LLM Safety Against Fine-tuning, arXiv 2506.15606",
        words="The alignment difference, aligned minus base, of each matrix is reduced to its leading singular "
        "directions. A multiple of this low-rank part is added to the weights, which moves them further along the "
        "directions that alignment took.",
        deviations="The paper adds the part to the aligned model before the user fine-tunes it; here it is added to "
        "the target, which is a repair afterwards. A study whose target is the aligned model itself is the paper's "
        "use. Rank and coefficient are our defaults and want tuning.",
        needs=("base",),
    ),
    EditRow(
        name="lssf",
        version=2,
        scores="singular values of the safety difference",
        selects="directions up to a share of the spectral entropy",
        edits="adds their part of the difference",
        function="subspace:lssf",
        options=LssfOptions,
        grade="B",
        source="Zhou et al.: LSSF, Safety Alignment through Low-Rank Safety Subspace Fusion, ACL 2025, arXiv "
        "2602.00038",
        words="For each matrix the safety difference, safe minus unsafe, is decomposed by singular values. Its rank "
        "is the smallest whose directions carry the asked share of the spectrum's entropy. The difference projected "
        "on these output directions is multiplied by alpha and added to the fine-tuned weights.",
        deviations=BASE
        + "How singular values become probabilities is our reading: their squares over the sum of squares "
        "(option: the values themselves), the entropy summed from the largest. alpha is our default.",
        needs=("base",),
    ),
    EditRow(
        name="safe_lora",
        version=2,
        scores="cosine of an update and its projection",
        selects="matrices at or below tau, or the least similar",
        edits="projects the update on the alignment difference",
        function="subspace:safe_lora",
        options=SafeLoraOptions,
        grade="A",
        source="Hsu et al.: Safe LoRA, NeurIPS 2024, arXiv 2405.16833",
        words="V is aligned minus base, and C = V V^T / ||V||_F. The update that fine-tuning made to a matrix is "
        "compared with C times the update; where the cosine is at most tau, the update is replaced by C times itself. "
        "Other matrices stay as they are.",
        deviations="The update is the difference of stored weights, target minus the model that fine-tuning started "
        "from: the aligned model as in the paper, or the base model by option. With a rank it is truncated by "
        "singular values to the factors of a LoRA, and what is cut off is not kept in projected matrices. The "
        "orthogonal projector and its rank are options, and tau is our default. Matrices that alignment did not "
        "change stay.",
        needs=("base",),
    ),
)
