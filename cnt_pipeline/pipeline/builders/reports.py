"""Builder of the `reports` stage: artifacts in, plain data out to `cnt_pipeline.reports`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.activation_caches.schema import SUMMARY
from cnt_pipeline.evaluations.schema import CURVE, METRICS, SAMPLES, VERDICT
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.completions import read_said
from cnt_pipeline.pipeline.builders.transplants import VERIFICATION
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.reports.material import SUBJECTS, Material, Model, Origin
from cnt_pipeline.reports.page import write_page
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS, ModelSource
from cnt_pipeline.transplants.methods import resolve
from cnt_pipeline.transplants.select.build import PLAN, SELECTION, TRIALS


def page(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`report.html` and `card.md`."""
    study = context.study
    material = Material(
        study=study.study,
        function=study.function,
        method=resolve(study.method),
        accept=study.accept,
        aim=study.method.aim,
        target=Model(*_names(study.models.target), _json(context, "target", "model.json")),
        donor=Model(*_names(study.models.donor), _json(context, "donor", "model.json")),
        comparison=_json(context, "pair", "comparison.json"),
        completeness=_json(context, "transfer", SUMMARY),
        ranking=_table(context, "ranking", RANKING),
        plan=_table(context, "selection", PLAN),
        trials=_table(context, "selection", TRIALS),
        selection=_json(context, "selection", SELECTION),
        verification=_json(context, "checkpoint", VERIFICATION),
        metrics=_table(context, "scores", METRICS),
        samples=_table(context, "scores", SAMPLES),
        curve=_table(context, "curve", CURVE),
        verdict=_json(context, "verdict", VERDICT),
        prompts={kind: read_prompts(context.path("prompts", file_name("test", kind))) for kind in KINDS},
        said={subject: read_said(context, f"said_by_{subject}") for subject in SUBJECTS},
        origins=[_origin(context, name) for name in context.step.inputs],
    )
    write_page(material, folder)
    return {"verdict": material.verdict["verdict"], "sentence": material.verdict["sentence"]}


def _names(source: ModelSource) -> tuple[str, str]:
    """A model's short name and where it comes from, without the place of a local folder."""
    if source.hub:
        return source.hub.rsplit("/", 1)[-1], f"{source.hub}@{source.revision}"
    if source.package:
        return Path(source.file or "").name, f"{source.package}/{source.file}"
    name = (source.path or Path()).name
    return name, name


def _json(context: Context, name: str, file: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(context.path(name, file).read_text(encoding="utf-8"))
    return document


def _table(context: Context, name: str, file: str) -> pl.DataFrame:
    return pl.read_parquet(context.path(name, file), glob=False)


def _origin(context: Context, name: str) -> Origin:
    """The key is this study's: another study may have built the same artifact under another key."""
    manifest = context.inputs[name].manifest
    return Origin(
        key=context.step.inputs[name].step,
        stage_version=manifest.stage_version,
        fingerprint=manifest.fingerprint,
        digest=manifest.digest,
        slice=manifest.slice,
        inputs=manifest.inputs,
        files={file: record.sha256 for file, record in sorted(manifest.files.items())},
    )
