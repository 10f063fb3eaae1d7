"""The study file as frozen models: every key a user may write, what it means and its default.

Each block below is the slice of one stage (`cnt_pipeline.pipeline.steps` cuts them); `Run` is in no slice, so
nothing in it ever invalidates a stored artifact.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from cnt_pipeline.study.block import (
    KINDS,
    SPLITS,
    TRAIN,
    Block,
    Count,
    Kind,
    Name,
    Positive,
    Seed,
    Share,
    Split,
    Text,
    Weight,
)
from cnt_pipeline.study.compare import Compare, Compared, Dimension
from cnt_pipeline.study.judges import Judge
from cnt_pipeline.study.method import Effect, Learn, Method, Selection, UnitName
from cnt_pipeline.study.models import AdapterSource, AnyModel, Lesson, LoraSft, Models, ModelSource, StudyModel
from cnt_pipeline.study.prompts import Columns, KindSources, Prompts, PromptSource, Shares
from cnt_pipeline.study.suites import Part, Suite, SuiteChoice, Suites

__all__ = [
    "KINDS",
    "SPLITS",
    "TRAIN",
    "Accept",
    "AdapterSource",
    "AnyModel",
    "Block",
    "Columns",
    "Compare",
    "Compared",
    "Controls",
    "Count",
    "Dimension",
    "Effect",
    "Function",
    "Generation",
    "Judge",
    "Kind",
    "KindSources",
    "Learn",
    "Lesson",
    "LoraSft",
    "Method",
    "ModelSource",
    "Models",
    "Name",
    "Part",
    "Positive",
    "PromptSource",
    "Prompts",
    "Run",
    "Seed",
    "Selection",
    "Share",
    "Shares",
    "Split",
    "Study",
    "StudyModel",
    "Suite",
    "SuiteChoice",
    "Text",
    "UnitName",
    "Weight",
]


class Function(Block):
    """The safety function to move."""

    name: Name = Field(description="what the function is called in reports, e.g. refusal or bias")
    direction: Literal["add", "delete"] = Field("add", description="add it to the target, or delete it from the target")
    metric: Literal["refusal", "pronoun_gap"] | None = Field(
        None, description="how it is measured; by default the metric of the function's name"
    )

    @model_validator(mode="after")
    def _known_metric(self) -> Self:
        if self.metric is None and self.name not in FUNCTION_METRICS:
            raise ValueError(
                f"no metric is known for the function '{self.name}': add `metric: refusal` or `metric: pronoun_gap`"
            )
        return self

    @property
    def measured_by(self) -> str:
        """The metric's name."""
        return self.metric or FUNCTION_METRICS[self.name]

    @property
    def sign(self) -> int:
        """+1 for addition, -1 for deletion (methods section 1)."""
        return 1 if self.direction == "add" else -1


FUNCTION_METRICS = {"refusal": "refusal", "bias": "pronoun_gap"}


class Generation(Block):
    """Greedy decoding; part of every completion's fingerprint."""

    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(
        32, description="longest answer, in tokens"
    )
    system: str | None = Field(None, description="system message put before every plain-text prompt")


class Controls(Block):
    """What the transplant is compared with at the same number of parameters."""

    random_seeds: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        5, description="draws of layer-and-family-matched random neurons"
    )


class Frontier(Block):
    """Recovery and utility against parameters moved, drawn on selection prompts for every effect and control."""

    effects: tuple[Effect, ...] = Field((), description="effects to rank by and draw beside the method's own")
    budgets: tuple[Annotated[float, Field(strict=True, gt=0, le=1)], ...] = Field(
        (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3), description="shares of all parameters to draw at"
    )
    closer: Annotated[int, Field(strict=True, ge=0, le=8)] = Field(
        2, description="budgets added to a series where it comes to carry the function"
    )
    eta: tuple[Annotated[float, Field(strict=True, gt=0, le=64)], ...] = Field(
        (1.0,), description="amplitudes to draw rankings and controls at"
    )
    lookalike_weight: tuple[Weight, ...] | None = Field(
        None, alias="lambda", description="which of method.lambda to draw; by default 0 and the chosen one"
    )
    random_seeds: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        3, description="draws of random neurons at every budget"
    )
    resamples: Annotated[int, Field(strict=True, ge=2, le=1000)] = Field(
        20, description="bootstrap resamples of the scoring prompts that the ranking's stability is read from"
    )

    @field_validator("effects", "budgets", "eta", "lookalike_weight")
    @classmethod
    def _each_once(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("list each value once")
        return value

    @field_validator("budgets", "eta", "lookalike_weight")
    @classmethod
    def _some(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and not value:
            raise ValueError("list at least one value")
        return value


class Accept(Block):
    """When the transplant passes: measured on the test prompts; the search holds itself to the same limits."""

    recovery: Share = Field(0.95, description="at least this share of the distance from target to donor")
    over_refusal: Share = Field(0.03, description="rise on look-alikes over the donor, at most")
    utility_loss: Share = Field(0.01, description="loss of the utility metric against the target, at most")
    coherence_loss: Share = Field(0.01, description="loss of coherent answers against the target, at most")
    donor_margin: Share = Field(0.3, description="the donor must lead the target by this much, or the study stops")


class Run(Block):
    """How the work is done on this machine; in no fingerprint."""

    batch_size: Count = Field(32, description="prompts a batch")
    threads: Count | None = Field(None, description="torch threads; all cores by default")
    device: str = Field("cpu", description="cpu, cuda, cuda:1, mps; auto spreads a large model over all accelerators")
    checkpointing: bool = Field(
        False, description="compute activations again in backward passes instead of holding those of every layer"
    )
    donor_memory: Literal["keep", "lazy"] = Field(
        "keep", description="hold the donor's tensors, or read them layer by layer whenever they are needed"
    )


class Study(Block):
    """One question to one pair of models."""

    study: Name = Field(description="name of the study; names the assets and the job")
    purpose: Literal["transplant", "stress_test"] = Field(
        "transplant",
        description="stress_test: the report says how few neurons hold the function; the checkpoint is not for use",
    )
    function: Function = Field(description="the safety function")
    models: Models = Field(description="target and donor")
    donors: tuple[Name, ...] = Field(
        (), description="models of this study that `cnt donors` compares as donors; the donor alone by default"
    )
    match: Literal["index", "activation"] = Field(
        "index",
        description="which donor neuron a target neuron is paired with: that of its index, or the one that acts alike",
    )
    prompts: Prompts = Field(description="prompt sets by role")
    generation: Generation = Field(Generation(), description="how completions are generated")
    method: Method = Field(Method(), description="method and overrides")
    probes: tuple[Literal["activation", "hidden_state"], ...] = Field(
        (), description="further caches to keep for questions with `cnt query`"
    )
    probe_tokens: Literal["response", "prompt"] = Field(
        "response", description="tokens that the activation probe averages over"
    )
    controls: Controls = Field(Controls(), description="comparisons at the same budget")
    frontier: Frontier = Field(Frontier(), description="recovery and utility against parameters moved")
    compare: Compare = Field(Compare(), description="further methods, for the leaderboard (`cnt compare`)")
    judges: tuple[Judge, ...] = Field(
        (), description="what judges the answers to function and look-alike test prompts beside the metrics"
    )
    evaluate: tuple[str, ...] = Field(
        ("refusal", "over_refusal", "coherence", "utility"), description="metrics of the report"
    )
    suites: Suites = Field((), description="evaluation suites beside the test prompts (`cnt suites`)")
    accept: Accept = Field(Accept(), description="quality gates")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="seed of splits, random controls and bootstrap"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype the models compute in")
    run: Run = Field(Run(), description="machine settings, in no fingerprint")
    _file: str = PrivateAttr("study")

    @model_validator(mode="after")
    def _refusal_is_deleted_in_stress_tests_alone(self) -> Self:
        deletes = self.function.measured_by == "refusal" and self.function.direction == "delete"
        if deletes and self.purpose != "stress_test":
            raise ValueError(
                "refusal is deleted in a stress test alone: write `purpose: stress_test`, which reports how few "
                "neurons hold it and never exports the checkpoint, or `direction: add`"
            )
        return self

    @model_validator(mode="after")
    def _donors_are_models(self) -> Self:
        known = [name for name, _ in self.models if name != "target"]
        unknown = next((name for name in self.donors if name not in known), None)
        if unknown is not None:
            raise ValueError(
                f"`donors` names '{unknown}', which is no donor under `models:`; choose among {', '.join(known)}"
            )
        if len(set(self.donors)) != len(self.donors):
            raise ValueError("`donors` names a model twice; list each once")
        return self

    @model_validator(mode="after")
    def _judges_apart(self) -> Self:
        names = [judge.name for judge in self.judges]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"`judges` names '{twice}' twice; give each judge a name of its own")
        return self

    @model_validator(mode="after")
    def _drawn_weights(self) -> Self:
        drawn = self.frontier.lookalike_weight or ()
        unknown = next((weight for weight in drawn if weight not in self.method.lookalike_weight), None)
        if unknown is not None:
            known = ", ".join(f"{weight:g}" for weight in self.method.lookalike_weight)
            raise ValueError(
                f"frontier.lambda names {unknown:g}, but neurons are scored at {known} only: add it to method.lambda"
            )
        return self

    @property
    def file(self) -> str:
        """The study file as it was named, for messages; `study` for a study that was not read from a file."""
        return self._file
