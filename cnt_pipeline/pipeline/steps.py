"""A study as a graph of steps. Each step names its stage, its slice of the study and the files that it reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cnt_pipeline import (
    activation_caches,
    completions,
    evaluations,
    measures,
    models,
    neuron_rankings,
    prompt_sets,
    reports,
    transplants,
)
from cnt_pipeline.measures.metrics import MISFIRES, metrics_of, versions
from cnt_pipeline.study.schema import ModelSource, Prompts, Study
from cnt_pipeline.transplants.methods import ResolvedMethod, resolve

VERSIONS = {
    "models": models.VERSION,
    "prompt_sets": prompt_sets.VERSION,
    "completions": completions.VERSION,
    "activation_caches": activation_caches.VERSION,
    "neuron_rankings": neuron_rankings.VERSION,
    "transplants": transplants.VERSION,
    "evaluations": evaluations.VERSION,
    "reports": reports.VERSION,
}
"""Version of every stage, bumped by hand when what it computes changes; in the order of the chain."""

SUBJECTS = ("target", "donor", "transplant", "control_random", "control_largest_delta")
"""Models that the report compares, in its order."""


@dataclass(frozen=True)
class Input:
    """Files of an earlier step: names or patterns; the whole artifact where empty."""

    step: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One artifact to make. `builder` names a function in `cnt_pipeline.pipeline.builders`; `external` is read from outside."""

    key: str
    builder: str
    slice: Mapping[str, Any]
    inputs: Mapping[str, Input] = field(default_factory=dict)
    external: ModelSource | Prompts | None = None
    resumable: bool = False
    names_inputs: bool = False
    """Its artifact names its inputs' fingerprints, so they count beside their content."""

    @property
    def stage(self) -> str:
        """Stage, asset group and folder of the store."""
        return self.key.split("/")[0]

    @property
    def version(self) -> int:
        """Version of the stage's code."""
        return VERSIONS[self.stage]


def steps_of(study: Study) -> tuple[Step, ...]:
    """All steps of a study, every step after those it reads.

    Raises:
        StudyError: the method is not in the table.
    """
    method = resolve(study.method)
    chain = (
        *_models(study),
        *_prompt_sets(study),
        *_baseline_completions(study),
        *_activation_caches(study, method),
        *_neuron_rankings(study, method),
        *_transplants(study, method),
        *_final_completions(study),
        *_evaluations(study, method),
    )
    return (*chain, _report(study, method, chain))


def _models(study: Study) -> list[Step]:
    return [
        Step("models/target", "models.describe", {}, external=study.models.target),
        Step("models/donor", "models.describe", {}, external=study.models.donor),
        Step("models/pair", "models.compare", {}, _pair()),
    ]


def _pair() -> dict[str, Input]:
    return {"target": Input("models/target"), "donor": Input("models/donor")}


def _prompt_sets(study: Study) -> list[Step]:
    sources = study.prompts.model_dump(mode="json", exclude={"split"}, exclude_defaults=True)
    return [
        Step(
            "prompt_sets/roles",
            "prompt_sets.build",
            {
                "prompts": _without_places(sources),
                "split": study.prompts.split.model_dump(mode="json"),
                "seed": study.seed,
            },
            external=study.prompts,
        )
    ]


def _without_places(sources: Any) -> Any:
    """Prompt sources without where they lie: their content's digest stands for that."""
    if not isinstance(sources, dict):
        return sources
    return {
        key: _without_places(value) for key, value in sources.items() if key not in ("file", "package", "packaged")
    }


def _speech(study: Study) -> dict[str, Any]:
    return {"generation": study.generation.model_dump(mode="json"), "dtype": study.dtype}


def _prompts(split: str, *kinds: str) -> Input:
    return Input("prompt_sets/roles", tuple(f"{split}.{kind}.parquet" for kind in kinds or ("*",)))


def _said(subject: str, split: str, *kinds: str) -> Input:
    return Input(f"completions/{subject}/{split}", tuple(f"{kind}.parquet" for kind in kinds))


def _baseline_completions(study: Study) -> list[Step]:
    steps = []
    for split in ("score", "selection", "test"):
        steps.append(
            Step(
                f"completions/target/{split}",
                "completions.of_target",
                _speech(study),
                {"target": Input("models/target"), "prompts": _prompts(split)},
            )
        )
        steps.append(
            Step(
                f"completions/donor/{split}",
                "completions.of_donor",
                _speech(study),
                {**_pair(), "prompts": _prompts(split), "target_completions": _said("target", split)},
            )
        )
    return steps


def _activation_caches(study: Study, method: ResolvedMethod) -> list[Step]:
    probe = f"effect_{method.effect}"
    slice_: dict[str, Any] = {"probe": probe, "dtype": study.dtype, "system": study.generation.system}
    if method.effect == "path":
        slice_["nodes"] = study.method.nodes
    objectives: dict[str, tuple[str | None, dict[str, tuple[str, str | None]]]] = {
        "transfer": ("function", {"target_completions": ("target", "function"), "donor_completions": ("donor", "function")}),
        "misfire": ("lookalike", {"target_completions": ("target", "lookalike"), "donor_completions": ("donor", "function")}),
        "keep": (None, {"target_completions": ("target", None)}),
    }
    steps = []
    for objective, (kind, answers) in objectives.items():
        kinds = (kind,) if kind else ("lookalike", "utility")
        inputs = {**_pair(), "prompts": _prompts("score", *kinds)}
        for name, (subject, answered) in answers.items():
            inputs[name] = _said(subject, "score", *((answered,) if answered else kinds))
        steps.append(
            Step(
                f"activation_caches/{probe}/{objective}",
                "activation_caches.effect",
                {**slice_, "objective": objective},
                inputs,
                resumable=True,
            )
        )
    for name in study.probes:
        for model in ("target", "donor"):
            steps.append(
                Step(
                    f"activation_caches/{name}/{model}",
                    f"activation_caches.{name}",
                    {
                        "dtype": study.dtype,
                        "system": study.generation.system,
                        **({"tokens": study.probe_tokens} if name == "activation" else {}),
                    },
                    {
                        "model": Input(f"models/{model}"),
                        "prompts": _prompts("score"),
                        "completions": _said("target", "score"),
                    },
                    resumable=True,
                )
            )
    return steps


def _neuron_rankings(study: Study, method: ResolvedMethod) -> list[Step]:
    probe = f"effect_{method.effect}"
    return [
        Step(
            f"neuron_rankings/{method.row.rule}",
            "neuron_rankings.by_effect",
            {
                "rule": method.row.rule,
                "lambda": sorted(study.method.lookalike_weight),
                "mu": study.method.damage_weight,
            },
            {
                name: Input(f"activation_caches/{probe}/{name}", ("statistics.parquet",))
                for name in ("transfer", "misfire", "keep")
            },
        ),
        Step("neuron_rankings/delta_norm", "neuron_rankings.by_delta", {"rule": "delta_norm"}, _pair()),
    ]


def _selection_inputs(method: ResolvedMethod) -> dict[str, Input]:
    return {
        **_pair(),
        "ranking": Input(f"neuron_rankings/{method.row.rule}", ("ranking.parquet",)),
        "prompts": _prompts("selection"),
        "target_completions": _said("target", "selection"),
        "donor_completions": _said("donor", "selection"),
    }


def _judging(study: Study) -> dict[str, Any]:
    metric = study.function.measured_by
    return {
        "metric": metric,
        "direction": study.function.direction,
        "scorers": versions((metric, MISFIRES[metric], "utility", "coherence")),
        **_speech(study),
    }


def _transplants(study: Study, method: ResolvedMethod) -> list[Step]:
    chosen = study.method
    amount: dict[str, dict[str, Any]] = {"top_k": {"count": chosen.count}, "top_fraction": {"fraction": chosen.fraction}, "bisect": {}}
    return [
        Step(
            "transplants/selection",
            "transplants.select",
            {
                "selection": method.selection,
                **amount[method.selection],
                "eta": sorted(chosen.eta),
                "aim": chosen.aim,
                "families": chosen.families,
                "limits": study.accept.model_dump(exclude={"recovery"}),
                **_judging(study),
            },
            _selection_inputs(method),
        ),
        Step(
            "transplants/checkpoint",
            "transplants.write",
            {"edit": method.row.edit},
            {**_pair(), "plan": Input("transplants/selection", ("plan.parquet",))},
        ),
        Step(
            "transplants/controls",
            "transplants.controls",
            {"random_seeds": study.controls.random_seeds, "seed": study.seed},
            {
                **_pair(),
                "plan": Input("transplants/selection", ("plan.parquet",)),
                "deltas": Input("neuron_rankings/delta_norm", ("ranking.parquet",)),
            },
        ),
    ]


def _final_completions(study: Study) -> list[Step]:
    shared = {"prompts": _prompts("test"), "target_completions": _said("target", "test")}
    steps = [
        Step(
            "completions/transplant/test",
            "completions.of_transplant",
            _speech(study),
            {"target": Input("models/target"), "checkpoint": Input("transplants/checkpoint", ("model/*",)), **shared},
        )
    ]
    for control in ("random", "largest_delta"):
        steps.append(
            Step(
                f"completions/control_{control}/test",
                "completions.of_control",
                _speech(study),
                {**_pair(), "controls": Input("transplants/controls", (f"{control}.parquet",)), **shared},
            )
        )
    return steps


def _evaluations(study: Study, method: ResolvedMethod) -> list[Step]:
    metrics = metrics_of(study.function, study.evaluate)
    return [
        Step(
            "evaluations/scores",
            "evaluations.score",
            {"metrics": metrics, "scorers": versions(metrics), "measures": measures.VERSION, "seed": study.seed},
            {"prompts": _prompts("test"), **{subject: _said(subject, "test") for subject in SUBJECTS}},
        ),
        Step(
            "evaluations/curve",
            "evaluations.curve",
            {
                "budgets": sorted(study.controls.curve),
                "families": study.method.families,
                "seed": study.seed,
                **_judging(study),
            },
            {
                **_selection_inputs(method),
                "selection": Input("transplants/selection", ("plan.parquet", "selection.json")),
                "deltas": Input("neuron_rankings/delta_norm", ("ranking.parquet",)),
            },
        ),
        Step(
            "evaluations/verdict",
            "evaluations.verdict",
            {
                "metric": study.function.measured_by,
                "direction": study.function.direction,
                "accept": study.accept.model_dump(mode="json"),
                "seed": study.seed,
            },
            {
                "scores": Input("evaluations/scores", ("metrics.parquet", "samples.parquet")),
                "verification": Input("transplants/checkpoint", ("verification.json",)),
            },
        ),
    ]


def _report(study: Study, method: ResolvedMethod, before: Sequence[Step]) -> Step:
    """The report names every step before it; those whose files it reads have names of their own."""
    read = {
        **_pair(),
        "pair": Input("models/pair"),
        "prompts": _prompts("test"),
        "transfer": Input(f"activation_caches/effect_{method.effect}/transfer", ("summary.json",)),
        "ranking": Input(f"neuron_rankings/{method.row.rule}", ("ranking.parquet",)),
        "selection": Input("transplants/selection"),
        "checkpoint": Input("transplants/checkpoint"),
        "scores": Input("evaluations/scores"),
        "curve": Input("evaluations/curve"),
        "verdict": Input("evaluations/verdict"),
        **{f"said_by_{subject}": _said(subject, "test") for subject in SUBJECTS},
    }
    named = {source.step for source in read.values()}
    return Step(
        "reports/page",
        "reports.page",
        {
            "study": study.study,
            "function": study.function.model_dump(mode="json"),
            "method": {"name": method.row.name, "effect": method.effect, "selection": method.selection, "aim": study.method.aim},
            "accept": study.accept.model_dump(mode="json"),
            "models": {which: source_name(getattr(study.models, which)) for which in ("target", "donor")},
        },
        {**read, **{step.key: Input(step.key) for step in before if step.key not in named}},
        names_inputs=True,
    )


def source_name(source: ModelSource) -> str:
    """A model by name, without the place on this machine where it lies."""
    if source.hub:
        return f"{source.hub}@{source.revision}"
    return f"{source.package}/{source.file}" if source.package else str(source.path and source.path.name)
