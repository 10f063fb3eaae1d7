"""Builder of the `reports` stage: artifacts in, plain data out to `cnt_pipeline.reports`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.activation_caches.schema import SUMMARY
from cnt_pipeline.completions.answers import read_answers
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.harness import ROWS, answers_of, documents_of
from cnt_pipeline.evaluations.leaderboard import FILE as BOARD
from cnt_pipeline.evaluations.schema import CAUSAL as CAUSAL_SAMPLES
from cnt_pipeline.evaluations.schema import (
    DIMENSIONS,
    FRONTIER,
    FRONTIER_SAMPLES,
    JUDGES_SUMMARY,
    METRICS,
    NEEDED,
    SAMPLES,
    SHARES,
    STABILITY,
    STATISTICS,
    STATISTICS_TABLE,
    VERDICT,
    VERDICTS,
)
from cnt_pipeline.evaluations.suite_table import ResolvedSuite, resolve_suites
from cnt_pipeline.measures.metrics import METRICS as KNOWN
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.completions import as_variants, read_said
from cnt_pipeline.pipeline.builders.transplants import VERIFICATION
from cnt_pipeline.pipeline.compare_steps import CAUSAL, PREFIX
from cnt_pipeline.pipeline.context import Context, read_json
from cnt_pipeline.pipeline.dimension_steps import KINDS as HARMFUL
from cnt_pipeline.pipeline.dimension_steps import after, asked, prompts_on
from cnt_pipeline.pipeline.find_steps import TRAINING
from cnt_pipeline.pipeline.judge_steps import JUDGES, judged_key
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.pipeline.suite_steps import (
    SUITE_SUBJECTS,
    suite_answers,
    suite_harness,
    suite_prompts,
    suite_scores,
)
from cnt_pipeline.prompt_sets.items import read_items
from cnt_pipeline.prompt_sets.schema import Prompt, file_name, read_prompts
from cnt_pipeline.reports.leaderboard import write_leaderboard_page
from cnt_pipeline.reports.material import (
    SUBJECTS,
    Answers,
    Certainty,
    Dimensions,
    Judging,
    Material,
    Model,
    Origin,
    Patched,
    Recipe,
    Selected,
    SuiteFigures,
)
from cnt_pipeline.reports.page import write_page
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS, Kind, LoraSft, ModelSource, Split
from cnt_pipeline.transplants.edit.table import resolve_edits
from cnt_pipeline.transplants.methods import resolve
from cnt_pipeline.transplants.moved import NEURONS
from cnt_pipeline.transplants.select.build import PLAN, SELECTION, TRIALS
from cnt_pipeline.transplants.select.samples import TRIAL_SAMPLES


def page(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`report.html` and `card.md`."""
    study, method, metrics = context.study, resolve(context.study.method), _table(context, "scores", METRICS)
    material = Material(
        study=study.study,
        function=study.function,
        method=method,
        accept=study.accept,
        aim=study.method.aim,
        target=_model(context, "target"),
        donor=_model(context, "donor"),
        comparison=read_json(context, "pair", "comparison.json"),
        completeness={} if method.effect == "contrast" else read_json(context, "transfer", SUMMARY),
        ranking=_table(context, "ranking", RANKING),
        plan=_table(context, "selection", PLAN),
        neurons=_table(context, "checkpoint", NEURONS),
        trials=_table(context, "selection", TRIALS),
        selection=read_json(context, "selection", SELECTION),
        verification=read_json(context, "checkpoint", VERIFICATION),
        metrics=metrics.filter(source=""),
        by_source=metrics.filter(pl.col("source") != ""),
        seen=_seen(context),
        samples=_table(context, "scores", SAMPLES),
        frontier=_table(context, "frontier", FRONTIER),
        needed=read_json(context, "frontier", NEEDED),
        stability=_table(context, "stability", STABILITY),
        verdict=read_json(context, "verdict", VERDICT),
        certainty=Certainty(
            _table(context, "statistics", STATISTICS_TABLE), read_json(context, "statistics", STATISTICS)
        ),
        prompts=_prompts(context),
        said={subject: read_said(context, f"said_by_{subject}") for subject in SUBJECTS},
        origins=_origins(context),
        recipes=_recipes(context),
        stress_test=study.purpose == "stress_test",
        aside=frozenset(context.step.slice.get("aside", ())),
        suites=[_suite(context, suite) for suite in resolve_suites(study)],
        judging=_judging(context),
        selected=Selected(
            prompts=_prompts(context, "selection_prompts", "selection"),
            trials=_table(context, "selection", TRIAL_SAMPLES),
            frontier=_table(context, "frontier", FRONTIER_SAMPLES),
        ),
    )
    write_page(material, folder)
    return {"verdict": material.verdict["verdict"], "sentence": material.verdict["sentence"]}


def leaderboard(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`leaderboard.html` and `leaderboard.md`."""
    study, board = context.study, read_json(context, "leaderboard", BOARD)
    said = {
        **{subject: read_said(context, subject) for subject in ("target", "donor", "transplant")},
        **_said_by_entries(context, PREFIX, KINDS),
    }
    answers = Answers(
        samples=_table(context, "leaderboard", SAMPLES),
        prompts=_prompts(context),
        said=said,
        aside=frozenset(context.step.slice.get("aside", ())),
        patched=_patched(context),
        dimensions=_dimensions(context),
    )
    write_leaderboard_page(study.study, board, study.accept, folder, answers)
    return {}


def _said_by_entries(context: Context, prefix: str, kinds: Iterable[Kind]) -> dict[str, dict[Kind, list[Completion]]]:
    """What stands for the entries of the leaderboard that have inputs of that prefix, by label; seeds are variants."""
    runs: dict[str, list[Mapping[Kind, list[Completion]]]] = {}
    for edit in resolve_edits(context.study):
        if f"{prefix}{edit.key}" in context.inputs:
            runs.setdefault(edit.label, []).append(read_said(context, f"{prefix}{edit.key}", kinds))
    return {label: as_variants(drawn) for label, drawn in runs.items()}


def _patched(context: Context) -> Patched | None:
    """What stands behind causal effects; None where the leaderboard measures none."""
    said = _said_by_entries(context, CAUSAL, KNOWN[context.study.function.measured_by].kinds)
    return Patched(_table(context, "leaderboard", CAUSAL_SAMPLES), said) if said else None


def _dimensions(context: Context) -> Dimensions | None:
    """The study's safety dimensions with all that was said to their test prompts; None where it has none."""
    if "dimensions" not in context.inputs:
        return None
    document = read_json(context, "dimensions", DIMENSIONS)
    (kind,) = HARMFUL

    def said(subject: str, name: str) -> list[Completion]:
        return read_said(context, asked(subject, name), HARMFUL)[kind]

    return Dimensions(
        document=document,
        samples=_table(context, "dimensions", SAMPLES),
        prompts={
            name: read_prompts(context.path(prompts_on(name), file_name("test", kind)))
            for name in document["dimensions"]
        },
        said={
            name: {(which, 0): said(which, name) for which in ("target", "donor")}
            | {
                (entry["entry"], number): said(after(entry["entry"], step["after"]), name)
                for entry in document["entries"]
                for number, step in enumerate(entry["steps"], 1)
                if name in step["asked"]
            }
            for name in document["dimensions"]
        },
    )


def _prompts(context: Context, name: str = "prompts", split: Split = "test") -> dict[Kind, list[Prompt]]:
    """The prompts of an input, by kind."""
    return {kind: read_prompts(context.path(name, file_name(split, kind))) for kind in KINDS}


def _judging(context: Context) -> Judging | None:
    """What the study's judges say; None where it names none."""
    if JUDGES not in context.inputs:
        return None
    verdicts = pl.concat([_table(context, judged_key(judge.name), VERDICTS) for judge in context.study.judges])
    return Judging(_table(context, JUDGES, SHARES), read_json(context, JUDGES, JUDGES_SUMMARY), verdicts)


def _model(context: Context, which: str) -> Model:
    """Target or donor with a short name: the study's own for a derived one, else the last part of its place."""
    models = context.study.models
    source = source_name(models, which)
    plain = isinstance(models.named()[which], ModelSource)
    short = source.split("@")[0].rsplit("/", 1)[-1] if plain else which
    return Model(short, source, read_json(context, which, "model.json"))


def _seen(context: Context) -> frozenset[str]:
    """Sources that scoring or search read."""
    read: dict[Split, str] = {"score": "scoring_prompts", "selection": "selection_prompts"}
    return frozenset(
        prompt.source
        for split, name in read.items()
        for prompts in _prompts(context, name, split).values()
        for prompt in prompts
    )


def _recipes(context: Context) -> list[Recipe]:
    """The study's derived models in the order made."""
    models = context.study.models
    found = []
    for name in models.in_order():
        model = models.named()[name]
        if isinstance(model, LoraSft):
            training = _table(context, f"made_{name}", TRAINING)
            found.append(Recipe(name, model.model_dump(mode="json", by_alias=True), training))
    return found


def _suite(context: Context, suite: ResolvedSuite) -> SuiteFigures:
    """What the models did in one suite."""
    left_out: Any = context.inputs[suite_prompts(suite.key)].manifest.metadata["left_out"] if suite.asked else {}
    prompts: dict[str, Sequence[Prompt]] = {}
    said: dict[str, Mapping[str, Sequence[Completion]]] = {}
    for part in suite.asked:
        file = f"{part.name}.parquet"
        prompts[part.name] = read_items(context.path(suite_prompts(suite.key), file))
        said[part.name] = {
            subject: read_answers(context.path(suite_answers(subject, suite.key), file)) for subject in SUITE_SUBJECTS
        }
    for part in suite.tasks:
        rows = {
            subject: _table(context, suite_harness(subject, suite.key), ROWS).filter(part=part.name).to_dicts()
            for subject in SUITE_SUBJECTS
        }
        prompts[part.name] = documents_of(row for found in rows.values() for row in found)
        said[part.name] = {subject: answers_of(found) for subject, found in rows.items()}
    return SuiteFigures(
        called=suite.key,
        name=suite.suite.suite,
        version=suite.suite.version,
        meaning=suite.suite.meaning,
        figures=_table(context, suite_scores(suite.key), METRICS),
        left_out=dict(left_out),
        samples=_table(context, suite_scores(suite.key), SAMPLES),
        prompts=prompts,
        said=said,
        tasks=frozenset(part.name for part in suite.tasks),
    )


def _table(context: Context, name: str, file: str) -> pl.DataFrame:
    return pl.read_parquet(context.path(name, file), glob=False)


def _origins(context: Context) -> list[Origin]:
    """The steps behind the report, in the order of the chain."""
    names = {source.step: name for name, source in context.step.inputs.items()}
    return [_origin(context, names[step.key], step) for step in steps_of(context.study) if step.key in names]


def _origin(context: Context, name: str, step: Step) -> Origin:
    """The key is this study's: another study may have built the same artifact under another key."""
    manifest = context.inputs[name].manifest
    return Origin(
        key=step.key,
        stage_version=manifest.stage_version,
        fingerprint=manifest.fingerprint,
        digest=manifest.digest,
        slice=manifest.slice,
        inputs=manifest.inputs,
        files={file: record.sha256 for file, record in sorted(manifest.files.items())},
        made_from=sorted({source.step for source in step.inputs.values()}),
    )
