"""The steps that find the neurons: models, prompt sets, what both models say, effects and rankings."""

from typing import Any

from cnt_pipeline.pipeline.step import Input, Step, pair, prompts_of, said_by, speech
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.methods import ResolvedMethod

PAIR = "models/pair"
"""Judges whether the two models can exchange neurons and their weights are finite: no other step computes before."""


def models_steps(study: Study) -> list[Step]:
    """Both models, and what they have in common."""
    return [
        Step("models/target", "models.describe", {}, external=study.models.target),
        Step("models/donor", "models.describe", {}, external=study.models.donor),
        Step(PAIR, "models.compare", {}, pair()),
    ]


def prompt_set_steps(study: Study) -> list[Step]:
    """All roles in one step, since no prompt may serve two; what lies below reads single files of it."""
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
    return {key: _without_places(value) for key, value in sources.items() if key not in ("file", "package", "packaged")}


def baseline_completions(study: Study) -> list[Step]:
    """What target and donor say on every split."""
    steps = []
    for split in ("score", "selection", "test"):
        steps.append(
            Step(
                f"completions/target/{split}",
                "completions.of_target",
                speech(study),
                {"target": Input("models/target"), "prompts": prompts_of(split)},
                after=(PAIR,),
            )
        )
        steps.append(
            Step(
                f"completions/donor/{split}",
                "completions.of_donor",
                speech(study),
                {**pair(), "prompts": prompts_of(split), "target_completions": said_by("target", split)},
            )
        )
    return steps


def cache_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """The effects that the method scores by, and the further probes that the study asks for."""
    probe = f"effect_{method.effect}"
    slice_: dict[str, Any] = {"probe": probe, "dtype": study.dtype, "system": study.generation.system}
    if method.effect == "path":
        slice_["nodes"] = study.method.nodes
    objectives: dict[str, tuple[str | None, dict[str, tuple[str, str | None]]]] = {
        "transfer": (
            "function",
            {"target_completions": ("target", "function"), "donor_completions": ("donor", "function")},
        ),
        "misfire": (
            "lookalike",
            {"target_completions": ("target", "lookalike"), "donor_completions": ("donor", "function")},
        ),
        "keep": (None, {"target_completions": ("target", None)}),
    }
    steps = []
    for objective, (kind, answers) in objectives.items():
        kinds = (kind,) if kind else ("lookalike", "utility")
        inputs = {**pair(), "prompts": prompts_of("score", *kinds)}
        for name, (subject, answered) in answers.items():
            inputs[name] = said_by(subject, "score", *((answered,) if answered else kinds))
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
                        "prompts": prompts_of("score"),
                        "completions": said_by("target", "score"),
                    },
                    resumable=True,
                )
            )
    return steps


def ranking_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """The method's ranking, and the largest-delta order of the controls."""
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
        Step("neuron_rankings/delta_norm", "neuron_rankings.by_delta", {"rule": "delta_norm"}, pair(), after=(PAIR,)),
    ]
