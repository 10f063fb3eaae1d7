"""The steps that find the neurons: models, prompt sets, what both models say, effects and rankings."""

from typing import Any

from cnt_pipeline.pipeline.step import Input, Step, model_input, pair, prompts_of, said_by, speech, tested_speech
from cnt_pipeline.study.schema import KINDS, TRAIN, AdapterSource, Effect, ModelSource, Study
from cnt_pipeline.transplants.methods import ResolvedMethod

PAIR = "models/pair"
"""Judges whether the two models can exchange neurons and their weights are finite: no other step computes before."""


def models_steps(study: Study) -> list[Step]:
    """Every model of the study, each after the one it is made from, and what target and donor have in common."""
    steps = [_model_step(study, name) for name in study.models.in_order()]
    return [*steps, Step(PAIR, "models.compare", {}, pair())]


def _model_step(study: Study, name: str) -> Step:
    """A folder is only described; a GGUF file, an adapter and a recipe become a folder in the step's artifact."""
    model = study.models.named()[name]
    if isinstance(model, ModelSource):
        return Step(f"models/{name}", "models.dequantise" if model.is_gguf else "models.describe", {}, external=model)
    if isinstance(model, AdapterSource):
        return Step(f"models/{name}", "models.merge_adapter", {}, {"base": model_input(model.base)}, external=model)
    recipe = model.model_dump(mode="json", exclude={"kind", "base"})
    answering = {"dtype": study.dtype} if any(lesson.answers == "own" for lesson in model.lessons) else {}
    return Step(
        f"models/{name}",
        "models.fine_tune",
        {"lora_sft": recipe, "system": study.generation.system, **answering},
        {"base": model_input(model.base), "prompts": prompts_of(TRAIN, *model.kinds)},
    )


def prompt_set_steps(study: Study) -> list[Step]:
    """All roles in one step, since no prompt may serve two; what lies below reads single files of it."""
    taught = study.models.taught_kinds()
    unread: dict[str, Any] = {"split": True, TRAIN: set(KINDS) - set(taught) if taught else True}
    sources = study.prompts.model_dump(mode="json", exclude=unread, exclude_defaults=True)
    return [
        Step(
            "prompt_sets/roles",
            "prompt_sets.build",
            {
                "prompts": without_places(sources),
                "split": study.prompts.split.model_dump(mode="json"),
                "seed": study.seed,
                "taught": sorted(taught),
            },
            external=study.prompts,
        )
    ]


def without_places(sources: Any) -> Any:
    """Prompt sources without where they lie: their content's digest stands for that."""
    if isinstance(sources, list):
        return [without_places(source) for source in sources]
    if not isinstance(sources, dict):
        return sources
    return {key: without_places(value) for key, value in sources.items() if key not in ("file", "package", "packaged")}


def baseline_completions(study: Study) -> list[Step]:
    """What target and donor say on every split."""
    steps = []
    for split in ("score", "selection", "test"):
        steps.append(
            Step(
                f"completions/target/{split}",
                "completions.of_target",
                speech(study),
                {"target": model_input("target"), "prompts": prompts_of(split)},
                after=(PAIR,),
            )
        )
        steps.append(
            Step(
                f"completions/donor/{split}",
                "completions.of_donor",
                tested_speech(study) if split == "test" else speech(study),
                {**pair(), "prompts": prompts_of(split), "target_completions": said_by("target", split)},
            )
        )
    return steps


TRAINING = "training.parquet"
"""File of a derived model's losses by step."""
SHARDS = "*-[0-9]*.parquet"
"""Files of a cache's raw rows."""
EFFECT_RULES: dict[Effect, str] = {"path": "effect", "gradient": "effect", "contrast": "contrast"}
"""Rule in `neuron_rankings/sql/` that turns what an effect's probe measured into a ranking."""

_OBJECTIVES: dict[str, tuple[str | None, dict[str, tuple[str, str | None]]]] = {
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
"""Kind of prompts that an objective is measured on (None: look-alikes and utility), and whose answers it reads."""


def effects_of(study: Study, method: ResolvedMethod) -> tuple[Effect, ...]:
    """The method's effect, then those that the frontier draws beside it."""
    return tuple(dict.fromkeys((method.effect, *study.frontier.effects)))


def caches_of(effect: Effect) -> dict[str, str]:
    """Keys of the caches that an effect's ranking reads, by objective."""
    if effect == "contrast":
        return {"transfer": "activation_caches/contrast/transfer"}
    return {objective: f"activation_caches/effect_{effect}/{objective}" for objective in _OBJECTIVES}


def cache_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """The effects that neurons are ranked by, and the further probes that the study asks for."""
    steps = [step for effect in effects_of(study, method) for step in _effect_caches(study, effect)]
    return [*steps, *(probe_step(study, name, model) for name in study.probes for model in ("target", "donor"))]


OWN_ANSWERS = ("moments", "saliency")
"""Probes that watch a model on its own answers; the others are on the target's."""


def probe_step(study: Study, name: str, model: str) -> Step:
    """One probe of one model on the scoring prompts."""
    return Step(
        f"activation_caches/{name}/{model}",
        f"activation_caches.{name}",
        {
            "probe": name,
            "dtype": study.dtype,
            "system": study.generation.system,
            **({"tokens": study.probe_tokens} if name == "activation" else {}),
        },
        {
            "model": model_input(model),
            "prompts": prompts_of("score"),
            "completions": said_by(model if name in OWN_ANSWERS else "target", "score"),
        },
        resumable=name not in OWN_ANSWERS,
    )


def _effect_caches(study: Study, effect: Effect) -> list[Step]:
    slice_: dict[str, Any] = {
        "probe": "contrast" if effect == "contrast" else f"effect_{effect}",
        "dtype": study.dtype,
        "system": study.generation.system,
    }
    if effect == "path":
        slice_["nodes"] = study.method.nodes
    steps = []
    for objective, key in caches_of(effect).items():
        kind, answers = _OBJECTIVES[objective]
        if effect == "contrast":
            answers = {"donor_completions": ("donor", "function")}
        kinds = (kind,) if kind else ("lookalike", "utility")
        inputs = {**pair(), "prompts": prompts_of("score", *kinds)}
        for name, (subject, answered) in answers.items():
            inputs[name] = said_by(subject, "score", *((answered,) if answered else kinds))
        builder = "activation_caches.contrast" if effect == "contrast" else "activation_caches.effect"
        steps.append(Step(key, builder, {**slice_, "objective": objective}, inputs, resumable=True))
    return steps


def ranking_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """A ranking for every effect, and the largest-delta order of the controls."""
    weights = {"lambda": sorted(study.method.lookalike_weight), "mu": study.method.damage_weight}
    rankings = [
        Step(
            f"neuron_rankings/{effect}",
            "neuron_rankings.by_effect",
            {"rule": EFFECT_RULES[effect], **({} if effect == "contrast" else weights)},
            {name: Input(key, ("statistics.parquet",)) for name, key in caches_of(effect).items()},
        )
        for effect in effects_of(study, method)
    ]
    return [
        *rankings,
        Step("neuron_rankings/delta_norm", "neuron_rankings.by_delta", {"rule": "delta_norm"}, pair(), after=(PAIR,)),
    ]
