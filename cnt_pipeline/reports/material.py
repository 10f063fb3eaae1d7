"""What a report is made from, as plain data: no artifact, no path, no date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Accept, Function, Kind
from cnt_pipeline.transplants.methods import ResolvedMethod

if TYPE_CHECKING:
    import polars as pl

SUBJECTS = ("target", "transplant", "donor", "control_random", "control_largest_delta")
"""Models that a report compares, in its order: before, after, the reference, then the controls."""


@dataclass(frozen=True)
class Model:
    """One of the pair: a short `name`, its `source` (never a place on this machine), its `model.json`."""

    name: str
    source: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """How a model of the study was made: its `name` in the study, the recipe's keys, and the losses by step."""

    name: str
    keys: Mapping[str, Any]
    training: "pl.DataFrame"


@dataclass(frozen=True)
class Certainty:
    """Every subject against target and donor, prompt by prompt: the `table` and what follows from it in words."""

    table: "pl.DataFrame"
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Judging:
    """What the study's judges say: shares of verdicts, and the `document` with what judges tell and where they
    disagree; `verdicts` has a row per judge and answer."""

    shares: "pl.DataFrame"
    document: Mapping[str, Any]
    verdicts: "pl.DataFrame"


@dataclass(frozen=True)
class Origin:
    """One step behind the report: `slice` and `inputs` (digests) make its fingerprint, `files` its digest.

    `made_from` are the keys of the steps that it reads.
    """

    key: str
    stage_version: int
    fingerprint: str
    digest: str
    slice: Mapping[str, Any]
    inputs: Mapping[str, str]
    files: Mapping[str, str]
    made_from: Sequence[str] = ()


@dataclass(frozen=True)
class SuiteFigures:
    """A suite as asked: what its steps are `called`, the suite file's `name`, `version` and `meaning`, its figures, and
    by part how many prompts were left out because the study reads them elsewhere.

    `samples` has a row per metric and answer; `prompts` and, by subject, what was `said` are by part too. The parts
    `tasks` are tasks of lm-evaluation-harness.
    """

    called: str
    name: str
    version: int
    meaning: str
    figures: "pl.DataFrame"
    left_out: Mapping[str, int]
    samples: "pl.DataFrame"
    prompts: Mapping[str, Sequence[Prompt]]
    said: Mapping[str, Mapping[str, Sequence[Completion]]]
    tasks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Patched:
    """What stands behind causal effects, by the row whose neurons were patched: judged `samples`, and what the target
    `said`, to the prompts of the function's metric alone."""

    samples: "pl.DataFrame"
    said: Mapping[str, Mapping[Kind, Sequence[Completion]]]


@dataclass(frozen=True)
class Dimensions:
    """Safety dimensions one after the other: the `document` of their figures and the judged `samples`; by dimension the
    test `prompts` and what was `said`, there by (entry, step), target and donor being entries of step 0."""

    document: Mapping[str, Any]
    samples: "pl.DataFrame"
    prompts: Mapping[str, Sequence[Prompt]]
    said: Mapping[str, Mapping[tuple[str, int], Sequence[Completion]]]


@dataclass(frozen=True)
class Answers:
    """What stands behind a leaderboard: its `samples`, the test prompts, and what the models of every row
    `said`, a variant for each seed. Sources `aside` are in no pooled figure. Where the study measures causal effects or
    has safety dimensions, those have answers of their own."""

    samples: "pl.DataFrame"
    prompts: Mapping[Kind, Sequence[Prompt]]
    said: Mapping[str, Mapping[Kind, Sequence[Completion]]]
    aside: frozenset[str] = frozenset()
    patched: Patched | None = None
    dimensions: Dimensions | None = None


@dataclass(frozen=True)
class Selected:
    """The selection `prompts`, and what the sets of neurons that were asked in the search (`trials`) and for the
    `frontier` said to them."""

    prompts: Mapping[Kind, Sequence[Prompt]]
    trials: "pl.DataFrame"
    frontier: "pl.DataFrame"


@dataclass(frozen=True)
class Material:
    """The content of every artifact that a report reads, in the layout of the stage that wrote it.

    `aside` are sources of test prompts that no gate reads. `aim` is the recovery that the search asked for on selection
    prompts, `accept` what the gates ask for. `metrics` are over all test prompts that the gates read, `by_source` (of
    the same columns) over those of one source; `seen` are the sources that scoring or search read. `completeness` is
    empty where the method measures no effect on the loss. `neurons` is the edit list of the checkpoint.
    """

    study: str
    function: Function
    method: ResolvedMethod
    accept: Accept
    aim: float
    target: Model
    donor: Model
    comparison: Mapping[str, Any]
    completeness: Mapping[str, Any]
    ranking: "pl.DataFrame"
    plan: "pl.DataFrame"
    neurons: "pl.DataFrame"
    trials: "pl.DataFrame"
    selection: Mapping[str, Any]
    verification: Mapping[str, Any]
    metrics: "pl.DataFrame"
    samples: "pl.DataFrame"
    by_source: "pl.DataFrame"
    seen: frozenset[str]
    frontier: "pl.DataFrame"
    needed: Mapping[str, Any]
    stability: "pl.DataFrame"
    verdict: Mapping[str, Any]
    prompts: Mapping[Kind, Sequence[Prompt]]
    said: Mapping[str, Mapping[Kind, Sequence[Completion]]]
    origins: Sequence[Origin]
    recipes: Sequence[Recipe] = ()
    stress_test: bool = False
    aside: frozenset[str] = frozenset()
    suites: Sequence[SuiteFigures] = ()
    certainty: Certainty | None = None
    judging: Judging | None = None
    selected: Selected | None = None

    @property
    def metric(self) -> str:
        """The metric that measures the function."""
        return self.function.measured_by

    def checkpoint(self) -> Mapping[str, str]:
        """SHA-256 of every file of the transplanted checkpoint, by its name in the checkpoint's folder."""
        return {
            name.removeprefix("model/"): digest
            for origin in self.origins
            if origin.key == "transplants/checkpoint"
            for name, digest in origin.files.items()
            if name.startswith("model/")
        }
