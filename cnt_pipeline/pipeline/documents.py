"""The JSON documents that commands write with `--json`. `cnt schema NAME` prints their JSON Schema."""

from typing import Literal

from pydantic import Field

from cnt_pipeline.pipeline.document_parts import Confusion, Document, Interval, JudgePair, SuiteRow

SCHEMA_VERSION = 1
"""Raised when a field changes its meaning or goes away; a field that is added leaves it."""


class PlannedStep(Document):
    """A step as a run would take it."""

    key: str = Field(description="name of the step, stage first")
    stage: str = Field(description="stage of the chain")
    state: Literal["hit", "build"] = Field(description="whether the store already holds the step's result")
    why: str = Field(description="why it is to build, in words; 'up to date' for a hit")
    fingerprint: str | None = Field(description="of what it is made from; null while an input is yet to be built")
    inputs: list[str] = Field(description="keys of the steps that it reads")
    last_seconds: float | None = Field(description="how long its last build took; null when it was never built")


class PlanDocument(Document):
    """What `cnt run` would do."""

    schema_version: Literal[1] = 1
    study: str = Field(description="name of the study")
    store: str = Field(description="folder or URL of the store")
    method: str = Field(description="row of the method table")
    hits: int = Field(description="steps that are up to date")
    to_build: int = Field(description="steps to build")
    expected_seconds: float | None = Field(
        description="time of those steps' last builds; null when one was never built"
    )
    steps: list[PlannedStep]


class StepStatus(Document):
    """A step as the store has it."""

    key: str = Field(description="name of the step, stage first")
    stage: str = Field(description="stage of the chain")
    state: Literal["cached", "to build", "broken"] = Field(
        description="broken: stored, but damaged; `cnt run` rebuilds it"
    )
    why: str = Field(description="which slice key, input or file is the reason")
    fingerprint: str | None = Field(description="of what it is made from; null while an input is yet to be built")
    digest: str | None = Field(description="content digest, of a cached step")


class StatusDocument(Document):
    """What the store holds of a study."""

    schema_version: Literal[1] = 1
    study: str = Field(description="name of the study")
    store: str = Field(description="folder or URL of the store")
    cached: int
    to_build: int
    broken: int
    steps: list[StepStatus]


class TakenStep(Document):
    """A step as a run took it."""

    key: str = Field(description="name of the step, stage first")
    stage: str = Field(description="stage of the chain")
    state: Literal["built", "hit"]
    fingerprint: str = Field(description="of what it was made from")
    digest: str = Field(description="of what it contains")
    seconds: float = Field(description="wall time of this step in this run")
    why: str = Field(description="why it was built; 'up to date' for a hit")


class MetricRow(Document):
    """One figure with its 95 % interval, on the test prompts."""

    subject: str = Field(description="target, donor, transplant, control:random or control:largest_delta")
    metric: str
    value: float
    low: float
    high: float
    n: int = Field(description="prompts judged")


class CheckRow(Document):
    """One quality gate."""

    name: str
    passed: bool
    value: float | None
    limit: float | None
    sentence: str


class TransplantSummary(Document):
    """The transplant as written."""

    neurons: int = Field(description="neurons that come from the donor")
    parameters: int = Field(description="weights in those neurons")
    share: float = Field(description="those weights as a share of all the target's")
    eta: float | None = Field(description="amplitude; 1 is a plain copy, null where each neuron has its own")
    path: str = Field(description="folder of the checkpoint")


class RunDocument(Document):
    """What `cnt run` did and found."""

    schema_version: Literal[1] = 1
    study: str = Field(description="name of the study")
    purpose: Literal["transplant", "stress_test"] = Field(
        description="stress_test: the checkpoint stays in the store and is not exported"
    )
    verdict: Literal["pass", "fail"] = Field(description="fail: at least one check does not hold (exit code 1)")
    seconds: float = Field(description="wall time of the run")
    steps: list[TakenStep]
    metrics: list[MetricRow]
    checks: list[CheckRow]
    suites: list[SuiteRow] = Field([], description="figures of the study's suites; empty without suites")
    judges: list[JudgePair] = Field([], description="how far the study's judges agree; empty with fewer than two")
    transplant: TransplantSummary
    report: str = Field(description="path of the HTML report")


class DonorRow(Document):
    """One candidate. What was not measured, since the donor cannot be used, is null."""

    name: str = Field(description="the model's name in the study")
    model: str = Field(description="where it comes from")
    why: str | None = Field(description="why it cannot be used, in a sentence; null for a donor that can")
    function: float | None = Field(None, description="its function metric on selection prompts")
    lead: float | None = Field(None, description="its distance from the target in the wanted direction")
    ntrr: Interval | None = Field(
        None, description="share of that distance covered by the target with the donor's best neurons"
    )
    neurons: int | None = Field(None, description="how many neurons the budget buys")
    misfire: float | None = Field(None, description="misfires on look-alikes of the target with those neurons")
    donor_misfire: float | None = Field(None, description="misfires of the donor itself")
    utility: float | None = Field(None, description="utility of the target with those neurons")


class DonorsDocument(Document):
    """What `cnt donors` found, the best donor first."""

    schema_version: Literal[1] = 1
    study: str = Field(description="name of the study")
    budget: float = Field(description="share of all parameters that were copied")
    function: str = Field(description="the function metric")
    target: float | None = Field(description="the target's function metric on selection prompts")
    target_utility: float | None = Field(description="the target's utility on selection prompts")
    best: str | None = Field(description="donor of the highest NTRR; null where none moves the function")
    donors: list[DonorRow]


class Figure(Interval):
    """A metric of one model, with the paired difference to the target's where both were judged."""

    n: int = Field(description="prompts judged")
    vs_target: float | None = None
    vs_target_low: float | None = None
    vs_target_high: float | None = None


class CausalEffect(Document):
    """What the activations of a method's neurons cause: the target answers with them replaced by the donor's."""

    value: float | None = Field(description="share of the distance to the donor that is covered; null where undefined")
    low: float | None = Field(description="lower end of its 95 % interval over prompts")
    high: float | None = Field(description="upper end of its 95 % interval over prompts")
    n: int = Field(description="prompts judged for target, donor and patched target alike")
    why: str | None = Field(description="why it is undefined, in words; null where it is not")
    patched: Interval | None = Field(description="the function metric of the patched target; null where not judged")


class LeaderboardRow(Document):
    """One model: target, donor, the study's own transplant, or what a method made of the target. What was not measured
    or does not apply is null; a metric that could judge no prompt is missing."""

    name: str = Field(description="target, donor, transplant (the study's own method) or the entry's name")
    method: str | None = Field(description="row of the method table; null for target and donor")
    grade: Literal["A", "B", "C", "I"] | None = Field(description="how the method's source is known")
    source: str | None = Field(description="where the method comes from")
    metrics: dict[str, Figure] = Field(description="by metric, on test prompts; `task` is the user's task")
    recovery: float | None = Field(description="share of the distance from target to donor that is covered")
    recovery_low: float | None = Field(description="lower end of its 95 % interval over prompts")
    recovery_high: float | None = Field(description="upper end of its 95 % interval over prompts")
    causal: CausalEffect | None = Field(None, description="null where the method is not measured so (`cnt methods`)")
    parameters: float | None = Field(description="weights that differ from the target's; the mean over seeds")
    share: float | None = Field(description="those weights as a share of all the target's")
    modules: float | None = Field(description="modules with such weights; the mean over seeds")
    seconds: float | None = Field(description="wall time of the edit, without probes shared with other methods")
    peak_memory: int | None = Field(description="growth of peak memory during the edit, in bytes")
    seeds: int = Field(description="draws that the figures are means over")
    by_seed: list[float] = Field(description="the function metric of each draw, where there are several")
    pareto: bool = Field(description="no other method is as good in everything and better in something")
    keeps_lookalikes: bool | None = Field(description="misfires within accept.over_refusal of the donor's")
    keeps_utility: bool | None = Field(description="utility within accept.utility_loss of the target's")
    keeps_task: bool | None = Field(description="the same of task accuracy; null where the study names no task")


class DimensionStep(Document):
    """An entry's checkpoint after it worked one more safety dimension."""

    after: str = Field(description="the dimension worked last")
    asked: list[str] = Field(description="dimensions so far, whose test prompts were asked")
    rows: int = Field(description="rows of weight matrices that this dimension edited")
    shared: int = Field(description="those of them that an earlier dimension had edited: 0")
    figures: dict[str, Figure] = Field(description="the function metric by dimension; missing where not judged")


class DimensionEntry(Document):
    """How one entry worked through the safety dimensions."""

    entry: str = Field(description="name of the entry")
    method: str = Field(description="row of the method table")
    steps: list[DimensionStep] = Field(description="in the order worked, each on the checkpoint of the one before")


class DimensionsPart(Document):
    """Safety dimensions one after the other."""

    metric: str = Field(description="the function metric")
    direction: Literal["add", "delete"] = Field(description="add: a higher function metric is better")
    dimensions: list[str] = Field(description="the study's dimensions, in order")
    target: dict[str, Figure] = Field(description="before the first, by dimension")
    donor: dict[str, Figure] = Field(description="for reference, by dimension")
    entries: list[DimensionEntry]


class LeaderboardDocument(Document):
    """What `cnt compare` found: target and donor, then the methods by recovery."""

    schema_version: Literal[1] = 1
    study: str = Field(description="name of the study")
    metric: str = Field(description="the function metric")
    misfire: str = Field(description="the metric of its misfires on look-alikes")
    direction: Literal["add", "delete"] = Field(description="add: a higher function metric is better")
    task: str | None = Field(description="source of the prompts of the user's task; null where the study names none")
    metrics: list[str] = Field(description="metrics asked of every row")
    rows: list[LeaderboardRow]
    dimensions: DimensionsPart | None = Field(None, description="null where the study lists no safety dimensions")
    page: str = Field(description="path of the HTML page")


class JudgeCheckRow(Document):
    """One judge beside people's labels; of one that could not be checked, the figures are null."""

    judge: str = Field(description="the judge's name in the study; phrases for the packaged phrase families")
    kind: Literal["phrases", "classifier", "guard", "function"]
    question: Literal["refused", "harmful"] = Field(description="what people said of every answer, yes or no")
    labels: str = Field(description="where the labels are from")
    digest: str = Field(description="of the files that hold them")
    why: str | None = Field(description="why the judge could not be checked, in a sentence; null where it was")
    n: int | None = Field(None, description="answers that the judge judged")
    undetermined: int | None = Field(None, description="answers that it could not judge, in none of the figures")
    incoherent: int | None = Field(None, description="answers too short or circular to be judged; they count as a no")
    accuracy: Interval | None = Field(None, description="share on which the judge agrees with people")
    precision: Interval | None = Field(None, description="share of the judge's yeses that people share; null for none")
    recall: Interval | None = Field(None, description="share of people's yeses that the judge shares; null for none")
    kappa: Interval | None = Field(None, description="Cohen's kappa; null where either says the same of everything")
    confusion: Confusion | None = None


class JudgeCheckDocument(Document):
    """What `cnt judge-check` found."""

    schema_version: Literal[1] = 1
    judges: list[JudgeCheckRow]


DOCUMENTS: dict[str, type[Document]] = {
    "run": RunDocument,
    "plan": PlanDocument,
    "status": StatusDocument,
    "donors": DonorsDocument,
    "leaderboard": LeaderboardDocument,
    "judge-check": JudgeCheckDocument,
}
"""Documents by the name that `cnt schema` takes."""
