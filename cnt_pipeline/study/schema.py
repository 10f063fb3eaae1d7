"""The study file as frozen models: every key a user may write, what it means and its default.

Each block below is the slice of one stage (`cnt_pipeline.pipeline.steps` cuts them); `Run` is in no slice, so
nothing in
it ever invalidates a stored artifact.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, StringConstraints, field_validator, model_validator

Kind = Literal["function", "lookalike", "utility"]
Split = Literal["score", "selection", "test"]
KINDS: tuple[Kind, ...] = ("function", "lookalike", "utility")
SPLITS: tuple[Split, ...] = ("score", "selection", "test")

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Text = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Weight = Annotated[float, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]


class Block(BaseModel):
    """A block of the study file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


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


class ModelSource(Block):
    """Where a model comes from: a local folder, a hub id with a pinned revision, or a folder in an installed
    package."""

    path: Path | None = Field(None, description="local folder with config.json, safetensors and tokenizer")
    hub: Text | None = Field(None, description="Hugging Face id, org/name")
    revision: Text | None = Field(None, description="full commit hash of the hub revision")
    package: Text | None = Field(None, description="name of an installed Python package")
    file: Text | None = Field(None, description="folder inside that package")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(value is not None for value in (self.path, self.hub, self.package)) != 1:
            raise ValueError("name exactly one source: path, hub (with revision) or package (with file)")
        if self.hub and not (self.revision and len(self.revision) == 40 and _is_hex(self.revision)):
            raise ValueError("a hub model needs `revision:` with the full 40-digit commit hash, so that it cannot move")
        if self.package and not self.file:
            raise ValueError("a model in a package needs `file:`, the folder inside the package")
        return self


class Models(Block):
    """The two models: same architecture, same tokenizer."""

    target: ModelSource = Field(description="the model that is to change")
    donor: ModelSource = Field(description="the model that has the function (add) or lacks it (delete)")

    @model_validator(mode="after")
    def _two_models(self) -> Self:
        if self.target == self.donor:
            raise ValueError("target and donor are the same model; name a donor that differs in the function")
        return self


class Columns(Block):
    """Which column of the source holds what; a dotted name reaches into nested objects."""

    text: str = Field("text", description="the user's message")
    messages: str | None = Field(None, description="a whole conversation, list of {role, content}; replaces text")
    prefix: str = Field("prefix", description="start of the assistant's answer that every model is given")
    answers: str = Field("answers", description="reference answers, one string or a list")
    choices: str = Field("choices", description="continuations to compare by likelihood")


class PromptSource(Block):
    """One set of prompts: exactly one source, and how to read it."""

    packaged: Text | None = Field(None, description="a set shipped with cnt_pipeline, e.g. harmful.score")
    file: Text | None = Field(None, description="local JSONL, CSV, Parquet or YAML; with `package`, a file inside it")
    package: Text | None = Field(None, description="name of an installed Python package that holds `file`")
    hub: Text | None = Field(None, description="Hugging Face dataset id, org/name")
    revision: Text | None = Field(None, description="full commit hash of the dataset's revision")
    config: Text | None = Field(None, description="configuration of the hub dataset")
    subset: str = Field("train", description="split of the hub dataset to read")
    rows: Text | None = Field(None, description="key of the list of rows inside a YAML or JSON document, e.g. seeds")
    where: dict[str, str | int | float | bool] = Field({}, description="keep only rows with these column values")
    columns: Columns = Field(Columns(), description="column mapping")
    take: Count | None = Field(None, description="how many prompts at most; all by default")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [self.packaged, self.hub, self.file]
        if sum(value is not None for value in named) != 1:
            raise ValueError("name exactly one source: packaged, file (alone or with package) or hub (with revision)")
        if self.package and not self.file:
            raise ValueError("`package` needs `file:`, the path inside the package")
        if self.hub and not (self.revision and len(self.revision) == 40 and _is_hex(self.revision)):
            raise ValueError(
                "a hub dataset needs `revision:` with the full 40-digit commit hash, so that it cannot move"
            )
        return self


class KindSources(Block):
    """A set for each kind of prompt."""

    function: PromptSource | None = Field(None, description="prompts on which the function fires")
    lookalike: PromptSource | None = Field(None, description="benign prompts easily mistaken for them")
    utility: PromptSource | None = Field(None, description="general prompts")


class Shares(Block):
    """How a source that serves several roles is divided, by the digest of each prompt."""

    score: Share = Field(0.4, description="finds the neurons")
    selection: Share = Field(0.3, description="chooses how many of them")
    test: Share = Field(0.3, description="is read for the report alone")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if abs(self.score + self.selection + self.test - 1) > 1e-9:
            raise ValueError(
                f"score, selection and test must add up to 1, not {self.score + self.selection + self.test:g}"
            )
        return self


class Prompts(Block):
    """The prompt sets. A kind without its own selection or test set shares its scoring source by `split`."""

    function: PromptSource = Field(description="prompts on which donor and target behave differently")
    lookalike: PromptSource = Field(description="benign prompts on which the function must not fire")
    utility: PromptSource = Field(description="general prompts whose answers must not change for the worse")
    selection: KindSources = Field(KindSources(), description="sets that the search is judged on")
    test: KindSources = Field(KindSources(), description="sets that only the report reads")
    split: Shares = Field(Shares(), description="division of a source that serves several roles")

    def source(self, split: Split, kind: Kind) -> PromptSource | None:
        """The source that was written for this role, or None where the role shares the scoring source."""
        source: PromptSource | None = getattr(self if split == "score" else getattr(self, split), kind)
        return source


class Generation(Block):
    """Greedy decoding; part of every completion's fingerprint."""

    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=1024)] = Field(
        32, description="longest answer, in tokens"
    )
    system: str | None = Field(None, description="system message put before every plain-text prompt")


class Method(Block):
    """How neurons are scored, selected and copied. What is not written comes from the method table (`cnt methods`)."""

    name: str = Field("cnt", description="row of the method table")
    effect: Literal["path", "gradient"] | None = Field(
        None, description="first-order effect at the target, or along the path to the donor"
    )
    nodes: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        8, description="Gauss-Legendre nodes of the path effect"
    )
    lookalike_weight: tuple[Weight, ...] = Field(
        (0.0, 0.5, 1.0), alias="lambda", description="weights of the look-alike effect to try"
    )
    damage_weight: Weight = Field(1.0, alias="mu", description="weight of the damage")
    selection: Literal["bisect", "top_k", "top_fraction"] | None = Field(None, description="how many neurons")
    count: Count | None = Field(None, description="number of neurons, for top_k")
    fraction: Annotated[float, Field(strict=True, gt=0, le=1)] | None = Field(
        None, description="share of all parameters, for top_fraction"
    )
    eta: tuple[Annotated[float, Field(strict=True, gt=0, le=64)], ...] = Field(
        (1.0,), description="amplitudes to try; 1 copies the donor's neuron"
    )
    aim: Share = Field(
        0.98,
        description="recovery the search asks for on selection prompts; above accept.recovery to leave room for chance",
    )
    families: tuple[str, ...] | None = Field(None, description="only these weight families, e.g. [gate, up, down]")

    @field_validator("lookalike_weight", "eta", "families")
    @classmethod
    def _not_empty(cls, value: tuple[object, ...] | None) -> tuple[object, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("list at least one value, each once")
        return value

    @model_validator(mode="after")
    def _amount(self) -> Self:
        if self.selection == "top_k" and self.count is None:
            raise ValueError("selection top_k needs `count:`, the number of neurons")
        if self.selection == "top_fraction" and self.fraction is None:
            raise ValueError("selection top_fraction needs `fraction:`, the share of all parameters")
        return self


class Controls(Block):
    """What the transplant is compared with at the same number of parameters."""

    random_seeds: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        5, description="draws of layer-and-family-matched random neurons"
    )
    curve: tuple[Positive, ...] = Field(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        description="budgets of the recovery curve, as multiples of the transplant's parameters",
    )


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
    device: str = Field("cpu", description="cpu, cuda, cuda:1, mps")


class Study(Block):
    """One question to one pair of models."""

    study: Name = Field(description="name of the study; names the assets and the job")
    function: Function = Field(description="the safety function")
    models: Models = Field(description="target and donor")
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
    evaluate: tuple[str, ...] = Field(
        ("refusal", "over_refusal", "coherence", "utility"), description="metrics of the report"
    )
    accept: Accept = Field(Accept(), description="quality gates")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(
        0, description="seed of splits, random controls and bootstrap"
    )
    dtype: Literal["float32", "bfloat16", "float16"] = Field("float32", description="dtype the models compute in")
    run: Run = Field(Run(), description="machine settings, in no fingerprint")
    _file: str = PrivateAttr("study")

    @property
    def file(self) -> str:
        """The study file as it was named, for messages; `study` for a study that was not read from a file."""
        return self._file


def _is_hex(text: str) -> bool:
    return all(digit in "0123456789abcdef" for digit in text.lower())
