"""The leaderboard's part of the graph: an edited checkpoint for every entry, what it says, and all of them in a row."""

from collections.abc import Iterator, Sequence

from cnt_pipeline import measures
from cnt_pipeline.errors import StudyError
from cnt_pipeline.measures.metrics import METRICS, metrics_of, versions
from cnt_pipeline.models.adapter_files import ADAPTER
from cnt_pipeline.pipeline.dimension_steps import dimension_samples, dimension_steps
from cnt_pipeline.pipeline.find_steps import probe_step
from cnt_pipeline.pipeline.prove_steps import aside_of
from cnt_pipeline.pipeline.step import Input, Step, model_input, pair, prompts_of, said_by, speech
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.edit.row import FactorOptions
from cnt_pipeline.transplants.edit.table import ResolvedEdit, resolve_edits

LEADERBOARD = "evaluations/leaderboard"
LEADERBOARD_PAGE = "reports/leaderboard"
PREFIX, CAUSAL = "compared_", "causal_"
"""Before an entry's key: the model that it edited, and the target with the activations of its neurons patched."""
EDITED = "edit.json"
"""What an edit changed."""
COST = "cost"
"""What it took, in its manifest: seconds and peak memory of the build are no content, so that two builds of one edit
are equal. The leaderboard shows those of the build that it read."""
CHOSEN = "chosen.parquet"
"""The neurons that an edit copied, where the leaderboard measures their causal effect."""
ADAPTED = ("target", "donor")
"""Models whose own adapters an edit may read, as the inputs `target_adapter` and `donor_adapter`."""
BOARD_METRICS = ("attack_success", "exact_match")
"""Metrics of every leaderboard beside the study's own; the first where the function is refusal."""


def compared_steps(study: Study, earlier: Sequence[Step]) -> list[Step]:
    """The steps of all entries and the leaderboard; none where the study compares nothing.

    Probes that `earlier` steps took already are read, not taken again.

    Raises:
        StudyError: as `resolve_edits`, or an entry asks for adapters that the study's models have not.
    """
    edits = resolve_edits(study)
    if not edits:
        return []
    known = {step.key for step in earlier}
    probes = dict.fromkeys(probe for edit in edits for probe in edit.probes)
    steps = [probe_step(study, *probe.split("/")) for probe in probes if f"activation_caches/{probe}" not in known]
    for edit in edits:
        steps += _steps_of(study, edit)
    return [*steps, *dimension_steps(study, edits), *_board(study, edits)]


def _steps_of(study: Study, edit: ResolvedEdit) -> Iterator[Step]:
    checkpoint = f"transplants/{PREFIX}{edit.key}"
    yield Step(
        checkpoint,
        "transplants.edit",
        {**edit.slice, **({"lists": CHOSEN} if edit.row.causal else {})},
        {
            **pair(),
            **{name: model_input(name) for name in edit.row.needs},
            **{probe: Input(f"activation_caches/{probe}") for probe in edit.probes},
            **_adapters_of(study, edit),
        },
        after=("models/pair",),
    )
    yield Step(
        f"completions/{PREFIX}{edit.key}/test",
        "completions.of_transplant",
        speech(study),
        {
            "target": model_input("target"),
            "checkpoint": Input(checkpoint, ("model/*",)),
            "prompts": prompts_of("test"),
            "target_completions": said_by("target", "test"),
        },
    )
    if edit.row.causal:
        yield _patched(study, edit)


def _patched(study: Study, edit: ResolvedEdit) -> Step:
    """What the target says to the function metric's prompts with the activations of an entry's neurons patched."""
    kinds = METRICS[study.function.measured_by].kinds
    return Step(
        f"completions/{CAUSAL}{edit.key}/test",
        "completions.of_patched",
        {**speech(study), "kinds": kinds},
        {
            **pair(),
            "edit": Input(f"transplants/{PREFIX}{edit.key}", (CHOSEN,)),
            "prompts": prompts_of("test", *kinds),
        },
    )


def _adapters_of(study: Study, edit: ResolvedEdit) -> dict[str, Input]:
    """The adapters of target and donor as inputs, where the edit is one of factors and both are made from `base`."""
    if not isinstance(edit.options, FactorOptions) or edit.options.factors == "svd":
        return {}
    # A donor in another order has another base than its adapter.
    own = study.match == "index" and all(study.models.base_of(role) == "base" for role in ADAPTED)
    if own:
        return {f"{role}_{ADAPTER}": Input(f"models/{role}", (f"{ADAPTER}/*",)) for role in ADAPTED}
    if edit.options.factors == "adapter":
        raise StudyError(
            f"{study.file}:compare: {edit.label} asks for `factors: adapter`, but target and donor are not both made "
            "from the model `base` by adapters (with match: index); leave factors out"
        )
    return {}


def board_metrics(study: Study) -> tuple[str, ...]:
    """The leaderboard's metrics, the function's first."""
    more = BOARD_METRICS if study.function.measured_by == "refusal" else BOARD_METRICS[1:]
    return metrics_of(study.function, more, study.file)


def _board(study: Study, edits: Sequence[ResolvedEdit]) -> Iterator[Step]:
    metrics = board_metrics(study)
    causal = [edit.key for edit in edits if edit.row.causal]
    said = {
        **{subject: said_by(subject, "test") for subject in ("target", "donor", "transplant")},
        **{f"{PREFIX}{edit.key}": said_by(f"{PREFIX}{edit.key}", "test") for edit in edits},
    }
    patched = {f"{CAUSAL}{key}": said_by(f"{CAUSAL}{key}", "test", *METRICS[metrics[0]].kinds) for key in causal}
    yield Step(
        LEADERBOARD,
        "evaluations.leaderboard",
        {
            "metrics": metrics,
            "scorers": versions(metrics),
            "measures": measures.VERSION,
            "task": study.compare.task,
            "direction": study.function.direction,
            "entries": [[edit.label, edit.row.name, edit.key] for edit in edits],
            **({"causal": causal} if causal else {}),
            "method": study.method.name,
            "seed": study.seed,
            **aside_of(study),
        },
        {
            "prompts": prompts_of("test"),
            **said,
            **patched,
            "selection": Input("transplants/selection", ("plan.parquet", "selection.json")),
            "checkpoint": Input("transplants/checkpoint", ("verification.json",)),
            **{f"edit_{edit.key}": Input(f"transplants/{PREFIX}{edit.key}", (EDITED,)) for edit in edits},
        },
    )
    yield Step(
        LEADERBOARD_PAGE,
        "reports.leaderboard",
        {"study": study.study, "accept": study.accept.model_dump(mode="json"), **aside_of(study)},
        {
            "leaderboard": Input(LEADERBOARD),
            "prompts": prompts_of("test"),
            **said,
            **patched,
            **dimension_samples(study, edits),
        },
    )
