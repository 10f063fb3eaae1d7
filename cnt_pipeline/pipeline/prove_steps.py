"""The steps that move the neurons and prove what it does: selection, checkpoint, controls, evaluations and the
report."""

from collections.abc import Sequence
from typing import Any

from cnt_pipeline import measures
from cnt_pipeline.measures.metrics import MISFIRES, metrics_of, versions
from cnt_pipeline.pipeline.find_steps import SHARDS, TRAINING, caches_of, effects_of
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.pipeline.step import (
    SUBJECTS,
    Input,
    Step,
    model_input,
    pair,
    prompts_of,
    said_by,
    speech,
    tested_speech,
)
from cnt_pipeline.prompt_sets.sources import label
from cnt_pipeline.study.schema import LoraSft, Study
from cnt_pipeline.transplants.methods import LEARNING, READS_SCORING, ResolvedMethod
from cnt_pipeline.transplants.select.settings import learn_settings


def selection_inputs(method: ResolvedMethod) -> dict[str, Input]:
    """What the judge on selection prompts reads, and the method's ranking."""
    return {
        **pair(),
        "ranking": _ranking(method.effect),
        "prompts": prompts_of("selection"),
        "target_completions": said_by("target", "selection"),
        "donor_completions": said_by("donor", "selection"),
    }


def _scoring_inputs(method: ResolvedMethod) -> dict[str, Input]:
    """The scoring prompts with both models' answers, for rules that score or learn anew."""
    if method.selection not in READS_SCORING:
        return {}
    return {
        "scoring_prompts": prompts_of("score"),
        "target_scoring": said_by("target", "score"),
        "donor_scoring": said_by("donor", "score", "function"),
    }


def _amount(study: Study, method: ResolvedMethod) -> dict[str, Any]:
    """What the selection rule reads of the study beside what every rule reads."""
    chosen = study.method
    if method.selection in LEARNING:
        learned = learn_settings(method.selection, chosen.learn).slice()
        return {"learn": learned, "lambda": chosen.lookalike_weight[0], "seed": study.seed}
    rules: dict[str, dict[str, Any]] = {
        "top_k": {"count": chosen.count},
        "top_fraction": {"fraction": chosen.fraction},
        "refine": {"nodes": chosen.nodes, "mu": chosen.damage_weight},
    }
    return rules.get(method.selection, {})


def _ranking(effect: str) -> Input:
    return Input(f"neuron_rankings/{effect}", ("ranking.parquet",))


def judging(study: Study) -> dict[str, Any]:
    """The slice of whatever judges on selection prompts."""
    metric = study.function.measured_by
    return {
        "metric": metric,
        "direction": study.function.direction,
        "scorers": versions((metric, MISFIRES[metric], "utility", "coherence")),
        **speech(study),
    }


def purpose_of(study: Study) -> dict[str, str]:
    """The slice of what must tell a stress test from a transplant: its checkpoint is an artifact of its own, and says
    so wherever the store goes."""
    return {} if study.purpose == "transplant" else {"purpose": study.purpose}


def transplant_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """The selection, the checkpoint and the controls."""
    chosen = study.method
    return [
        Step(
            "transplants/selection",
            "transplants.select",
            {
                "selection": method.selection,
                **_amount(study, method),
                **({} if method.selection == "prune" else {"eta": sorted(chosen.eta)}),
                "units": chosen.units,
                "aim": chosen.aim,
                "families": chosen.families,
                "limits": study.accept.model_dump(exclude={"recovery"}),
                **judging(study),
            },
            {**selection_inputs(method), **_scoring_inputs(method)},
        ),
        Step(
            "transplants/checkpoint",
            "transplants.write",
            {"edit": method.row.edit, **purpose_of(study)},
            {**pair(), "plan": Input("transplants/selection", ("plan.parquet",))},
        ),
        Step(
            "transplants/controls",
            "transplants.controls",
            {"random_seeds": study.controls.random_seeds, "seed": study.seed},
            {
                **pair(),
                "plan": Input("transplants/selection", ("plan.parquet",)),
                "deltas": Input("neuron_rankings/delta_norm", ("ranking.parquet",)),
            },
        ),
    ]


def final_completions(study: Study) -> list[Step]:
    """What the transplant and the controls say on the test prompts."""
    shared = {"prompts": prompts_of("test"), "target_completions": said_by("target", "test")}
    steps = [
        Step(
            "completions/transplant/test",
            "completions.of_transplant",
            tested_speech(study),
            {"target": model_input("target"), "checkpoint": Input("transplants/checkpoint", ("model/*",)), **shared},
        )
    ]
    for control in ("random", "largest_delta"):
        steps.append(
            Step(
                f"completions/control_{control}/test",
                "completions.of_control",
                tested_speech(study),
                {**pair(), "controls": Input("transplants/controls", (f"{control}.parquet",)), **shared},
            )
        )
    return steps


def aside_of(study: Study) -> dict[str, list[str]]:
    """The slice of whatever pools test prompts: the sources that no gate reads, where there are any."""
    named = sorted({label(source) for source in study.prompts.ungated()})
    return {"aside": named} if named else {}


def evaluation_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """Scores, how certain they are, the frontier, the ranking's stability, and the verdict."""
    effects = effects_of(study, method)
    selection = {name: source for name, source in selection_inputs(method).items() if name != "ranking"}
    metrics = metrics_of(study.function, study.evaluate, study.file)
    return [
        Step(
            "evaluations/scores",
            "evaluations.score",
            {
                "metrics": metrics,
                "scorers": versions(metrics),
                "measures": measures.VERSION,
                "seed": study.seed,
                **aside_of(study),
            },
            {"prompts": prompts_of("test"), **{subject: said_by(subject, "test") for subject in SUBJECTS}},
        ),
        Step(
            "evaluations/statistics",
            "statistics.compare",
            {
                "metric": study.function.measured_by,
                "direction": study.function.direction,
                "limits": study.accept.model_dump(include={"over_refusal", "utility_loss", "coherence_loss"}),
                "measures": measures.VERSION,
                "seed": study.seed,
                **aside_of(study),
            },
            {"scores": Input("evaluations/scores", ("samples.parquet",))},
        ),
        Step(
            "evaluations/frontier",
            "evaluations.frontier",
            {
                **study.frontier.model_dump(mode="json", by_alias=True, exclude={"effects", "resamples"}),
                "effects": effects,
                "measures": measures.VERSION,
                "families": study.method.families,
                "seed": study.seed,
                **judging(study),
            },
            {
                **selection,
                **{f"ranking_{effect}": _ranking(effect) for effect in effects},
                "selection": Input("transplants/selection", ("plan.parquet", "selection.json")),
                "deltas": _ranking("delta_norm"),
            },
        ),
        Step(
            "evaluations/stability",
            "evaluations.stability",
            {
                "effect": method.effect,
                "resamples": study.frontier.resamples,
                "seed": study.seed,
                **({} if method.effect == "contrast" else {"mu": study.method.damage_weight}),
            },
            {
                **pair(),
                "ranking": _ranking(method.effect),
                **{name: Input(key, (SHARDS,)) for name, key in caches_of(method.effect).items()},
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
                **aside_of(study),
            },
            {
                "scores": Input("evaluations/scores", ("metrics.parquet", "samples.parquet")),
                "verification": Input("transplants/checkpoint", ("verification.json",)),
            },
        ),
    ]


def report_step(study: Study, method: ResolvedMethod, before: Sequence[Step]) -> Step:
    """The report names every step before it; those whose files it reads have names of their own."""
    recipes = {name: model for name, model in study.models.named().items() if isinstance(model, LoraSft)}
    read = {
        **pair(),
        "pair": Input("models/pair"),
        "prompts": prompts_of("test"),
        "scoring_prompts": prompts_of("score"),
        "selection_prompts": prompts_of("selection"),
        "transfer": Input(
            caches_of(method.effect)["transfer"],
            ("statistics.parquet",) if method.effect == "contrast" else ("summary.json",),
        ),
        "ranking": _ranking(method.effect),
        "selection": Input("transplants/selection"),
        "checkpoint": Input("transplants/checkpoint"),
        "scores": Input("evaluations/scores"),
        "statistics": Input("evaluations/statistics"),
        "frontier": Input("evaluations/frontier"),
        "stability": Input("evaluations/stability"),
        "verdict": Input("evaluations/verdict"),
        **{f"said_by_{subject}": said_by(subject, "test") for subject in SUBJECTS},
        **{f"made_{name}": Input(f"models/{name}", (TRAINING,)) for name in recipes},
    }
    named = {source.step for source in read.values()}
    return Step(
        "reports/page",
        "reports.page",
        {
            "study": study.study,
            "purpose": study.purpose,
            "recipes": {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()},
            "function": study.function.model_dump(mode="json"),
            "method": {
                "name": method.row.name,
                "effect": method.effect,
                "selection": method.selection,
                "aim": study.method.aim,
            },
            "accept": study.accept.model_dump(mode="json"),
            **aside_of(study),
            "models": {which: source_name(study.models, which) for which in ("target", "donor")},
        },
        {**read, **{step.key: Input(step.key) for step in before if step.key not in named}},
        names_inputs=True,
    )
