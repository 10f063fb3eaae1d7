"""The steps that move the neurons and prove what it does: selection, checkpoint, controls, evaluations and the
report."""

from collections.abc import Sequence
from typing import Any

from cnt_pipeline import measures
from cnt_pipeline.measures.metrics import MISFIRES, metrics_of, versions
from cnt_pipeline.pipeline.step import SUBJECTS, Input, Step, pair, prompts_of, said_by, speech
from cnt_pipeline.study.schema import ModelSource, Study
from cnt_pipeline.transplants.methods import ResolvedMethod


def _selection_inputs(method: ResolvedMethod) -> dict[str, Input]:
    return {
        **pair(),
        "ranking": Input(f"neuron_rankings/{method.row.rule}", ("ranking.parquet",)),
        "prompts": prompts_of("selection"),
        "target_completions": said_by("target", "selection"),
        "donor_completions": said_by("donor", "selection"),
    }


def _judging(study: Study) -> dict[str, Any]:
    metric = study.function.measured_by
    return {
        "metric": metric,
        "direction": study.function.direction,
        "scorers": versions((metric, MISFIRES[metric], "utility", "coherence")),
        **speech(study),
    }


def transplant_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """The selection, the checkpoint and the controls."""
    chosen = study.method
    amount: dict[str, dict[str, Any]] = {
        "top_k": {"count": chosen.count},
        "top_fraction": {"fraction": chosen.fraction},
        "bisect": {},
    }
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
            speech(study),
            {"target": Input("models/target"), "checkpoint": Input("transplants/checkpoint", ("model/*",)), **shared},
        )
    ]
    for control in ("random", "largest_delta"):
        steps.append(
            Step(
                f"completions/control_{control}/test",
                "completions.of_control",
                speech(study),
                {**pair(), "controls": Input("transplants/controls", (f"{control}.parquet",)), **shared},
            )
        )
    return steps


def evaluation_steps(study: Study, method: ResolvedMethod) -> list[Step]:
    """Scores, recovery curve and verdict."""
    metrics = metrics_of(study.function, study.evaluate, study.file)
    return [
        Step(
            "evaluations/scores",
            "evaluations.score",
            {"metrics": metrics, "scorers": versions(metrics), "measures": measures.VERSION, "seed": study.seed},
            {"prompts": prompts_of("test"), **{subject: said_by(subject, "test") for subject in SUBJECTS}},
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


def report_step(study: Study, method: ResolvedMethod, before: Sequence[Step]) -> Step:
    """The report names every step before it; those whose files it reads have names of their own."""
    read = {
        **pair(),
        "pair": Input("models/pair"),
        "prompts": prompts_of("test"),
        "transfer": Input(f"activation_caches/effect_{method.effect}/transfer", ("summary.json",)),
        "ranking": Input(f"neuron_rankings/{method.row.rule}", ("ranking.parquet",)),
        "selection": Input("transplants/selection"),
        "checkpoint": Input("transplants/checkpoint"),
        "scores": Input("evaluations/scores"),
        "curve": Input("evaluations/curve"),
        "verdict": Input("evaluations/verdict"),
        **{f"said_by_{subject}": said_by(subject, "test") for subject in SUBJECTS},
    }
    named = {source.step for source in read.values()}
    return Step(
        "reports/page",
        "reports.page",
        {
            "study": study.study,
            "function": study.function.model_dump(mode="json"),
            "method": {
                "name": method.row.name,
                "effect": method.effect,
                "selection": method.selection,
                "aim": study.method.aim,
            },
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
