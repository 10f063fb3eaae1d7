"""Methods that copy whole neurons (rows or columns of weight matrices) of the donor into the target."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from cnt_pipeline.study.block import Block, Positive, Seed
from cnt_pipeline.transplants.edit.row import EditRow

Part = Annotated[float, Field(strict=True, gt=0, le=1)]
Threshold = Annotated[float, Field(strict=True)]
Families = Literal["all", "ffn"] | tuple[str, ...]

BUDGET = "share of all parameters of the model that is copied, best neurons first"
CAP = "at most this share of all parameters is copied, best neurons first; left out, every neuron above the threshold"
FAMILIES = "which weight families: all, ffn, or a list such as [gate, up, down]"


class FamilyOptions(Block):
    """Which families may give neurons."""

    families: Families = Field("all", description=FAMILIES)

    @field_validator("families")
    @classmethod
    def _some_each_once(cls, value: Families) -> Families:
        if isinstance(value, tuple) and (not value or len(set(value)) != len(value)):
            raise ValueError("list at least one family, each once")
        return value


class DeltaNormOptions(FamilyOptions):
    """How many neurons, and of which families."""

    budget: Part = Field(0.05, description=BUDGET)


class RandomOptions(FamilyOptions):
    """How many neurons are drawn, and to which layers and families they are matched."""

    budget: Part = Field(0.05, description=BUDGET)
    like: Literal["even", "delta_norm"] = Field(
        "even", description="draw the same share of every layer and family, or as many as delta_norm takes of each"
    )


class SafetyNeuronsOptions(FamilyOptions):
    """How many neurons, and of which families."""

    families: Families = Field("ffn", description=FAMILIES)
    budget: Part = Field(0.05, description=BUDGET)


class SafeNeuronOptions(FamilyOptions):
    """From which effect on a neuron counts as a safety neuron."""

    criterion: Literal["either", "both", "effect_size", "shift"] = Field(
        "either", description="which thresholds a neuron has to pass"
    )
    effect_size: Positive = Field(3.0, description="threshold of Cohen's d, function against utility prompts")
    shift: Positive = Field(
        2.0, description="threshold of the difference of means, in standard deviations within its layer and family"
    )
    budget: Part | None = Field(None, description=CAP)


class SsahOptions(FamilyOptions):
    """How many neurons, and how layers are compared."""

    budget: Part = Field(0.05, description=BUDGET)
    standardise: bool = Field(
        True, description="measure importance in standard deviations within its matrix, so that layers compare"
    )


class NestOptions(FamilyOptions):
    """How the probes are fitted, and which of their weights count."""

    families: Families = Field("ffn", description=FAMILIES)
    threshold: Threshold = Field(2.0, description="standardised probe weight above which a neuron counts")
    penalty: Positive = Field(1.0, description="half of this times the squared probe weights is added to the loss")
    budget: Part | None = Field(None, description=CAP)


class RefusalDotOptions(FamilyOptions):
    """How many neurons, and which refusal direction they are held against."""

    budget: Part = Field(0.05, description=BUDGET)
    layer: Seed | None = Field(
        None, description="layer, counted from 0, behind which the direction is taken for all; left out, each its own"
    )
    unit: bool = Field(True, description="scale every direction to length 1, so that layers compare")


COPY = "copy rows and columns of the donor"
TEACHER_FORCED = "Activations are over the tokens of the target's answers (of prompts, with `probe_tokens: prompt`)."

ROWS = (
    EditRow(
        name="safety_neurons",
        scores="root mean square difference of activations, target against donor",
        selects="best neurons within a budget",
        edits=COPY,
        function="neurons:safety_neurons",
        options=SafetyNeuronsOptions,
        grade="A",
        source="arXiv 2406.14144",
        words=(
            "Target and donor read the same answers to function prompts. A neuron scores by the root mean square of "
            "the difference of its activation in the two models. The best within the budget are copied from the donor."
        ),
        deviations=(
            "The source replaces activations while the model runs; here the weights that make them are copied. The "
            "leaderboard measures both: recovery is that of the copied weights, which work on the target's inputs and "
            "do nothing where they equal the donor's; the causal effect is the source's, with the study's metric as F. "
            "Neurons are rows and columns of all FFN matrices, not only what the last one reads: the activation of a "
            "column of down is its input, as in the source, that of a row of gate or up its output, before the "
            "nonlinearity. The cache holds mean and root mean square of each prompt, not single tokens, so the mean "
            "square difference of a prompt is taken as the smallest that they allow: squared difference of means plus "
            "squared difference of standard deviations; the row cnt_contrast measures it token by token. Prompts count "
            "the same, whatever their length. " + TEACHER_FORCED
        ),
        probes=("activation/target", "activation/donor"),
        causal=True,
    ),
    EditRow(
        name="safeneuron",
        scores="Cohen's d of activations, and their shift within the layer",
        selects="neurons above d 3 or z 2",
        edits=COPY,
        function="neurons:safeneuron",
        options=SafeNeuronOptions,
        grade="A",
        source="arXiv 2602.12158",
        words=(
            "In the donor, a neuron's mean activation is compared between function and utility prompts. It is a safety "
            "neuron if the difference exceeds 3 pooled standard deviations over prompts (Cohen's d), or if it lies "
            "more than 2 standard deviations above those of its layer. Safety neurons are copied into the target."
        ),
        deviations=(
            "The source freezes these neurons and trains the others; only its identification is used. The shift is "
            "standardised within layer and family, since families have different units; only increases count. With a "
            "budget, neurons are ordered by the larger of the two in units of its threshold (the smaller for `both`). "
            + TEACHER_FORCED
        ),
        probes=("activation/donor",),
    ),
    EditRow(
        name="ssah",
        scores="variance of the input times squared column norm, safety less utility",
        selects="best input columns within a budget",
        edits="copy columns of the donor",
        function="neurons:ssah",
        options=SsahOptions,
        grade="B",
        source="arXiv 2410.10862",
        words=(
            "An input column matters by the variance of its input over tokens times the squared norm of its weights. "
            "What matters more on function prompts than on utility prompts, in the donor, is safety-critical; the best "
            "columns within the budget are copied into the target."
        ),
        deviations=(
            "Columns of o and down only, the matrices whose neurons are input columns; the rows of gate and up that "
            "share an index with a column of down stay. Importance is standardised within its matrix before the "
            "difference is taken, as in the pruning score that it comes from; `standardise: false` takes the "
            "bare formula."
        ),
        probes=("moments/donor",),
    ),
    EditRow(
        name="nest",
        scores="weights of a logistic probe on each layer",
        selects="neurons whose standardised weight exceeds a threshold",
        edits=COPY,
        function="probed:nest",
        options=NestOptions,
        grade="B",
        source="arXiv 2602.16835",
        words=(
            "For each layer of the donor a logistic regression tells function from utility prompts by the neurons' "
            "mean activations. Neurons whose weight lies more than the threshold of standard deviations above the "
            "layer's mean weight are copied into the target."
        ),
        deviations=(
            "Scoring part only: the source then clusters these neurons and trains an update for each cluster. "
            "Activations are averaged over tokens where the source takes the maximum, and scaled to variance 1 over "
            "prompts; threshold and penalty are ours. " + TEACHER_FORCED
        ),
        probes=("activation/donor",),
    ),
    EditRow(
        name="refusal_dot",
        scores="|column . refusal direction|",
        selects="best columns of o and down within a budget",
        edits="copy columns of the donor",
        function="neurons:refusal_dot",
        options=RefusalDotOptions,
        grade="A",
        source="arXiv 2406.11717",
        words=(
            "The refusal direction of a layer is the difference of the donor's mean hidden states between function and "
            "utility prompts at the last token of the prompt. A column of o or down scores by how much it writes along "
            "it; the best within the budget are copied into the target."
        ),
        deviations=(
            "The source takes the direction out of every matrix that writes to the hidden state; copying by the size "
            "of the projection is ours. It uses one direction for all layers, chosen by trial (`layer:`); by default "
            "each layer has its own, the state behind it. The last layer's recorded state has passed the final norm, "
            "so it uses the state before it. Norms between a matrix and the hidden state (Gemma) are not accounted for."
        ),
        probes=("hidden_state/donor",),
    ),
    EditRow(
        name="delta_norm",
        scores="norm of the difference between donor and target",
        selects="best neurons within a budget",
        edits=COPY,
        function="neurons:delta_norm",
        options=DeltaNormOptions,
        grade="I",
        source="control",
        words="Control: the neurons whose weights, bias included, differ most between donor and target are copied.",
    ),
    EditRow(
        name="random",
        scores="chance",
        selects="as many of every layer and family, drawn at random within a budget",
        edits=COPY,
        function="neurons:random",
        options=RandomOptions,
        grade="I",
        source="control",
        words=(
            "Control: neurons drawn at random are copied, the same share of every layer and family, or as many of each "
            "as delta_norm takes at the same budget."
        ),
        deviations="Its share is of all parameters, so that it compares with the other copying methods at one budget.",
    ),
)
