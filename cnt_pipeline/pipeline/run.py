"""Take one step: ask the store for it and build it when it is not there. Dagster's assets and the tests share this."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cnt_pipeline.pipeline.context import Build, Context, ModelPool
from cnt_pipeline.pipeline.plan import request_for
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store import JSON, Artifact, Built, Store
from cnt_pipeline.study.schema import Study


@dataclass(frozen=True)
class Taken:
    """A step after it was taken; `why` says in words why it was built."""

    step: Step
    built: Built
    fingerprint: str
    why: str


def take(
    study: Study, step: Step, store: Store, ready: Mapping[str, Artifact], models: ModelPool, report: Report = silent
) -> Taken:
    """Hit or build one step, given the artifacts of the steps it reads.

    Raises:
        CntError: the inputs cannot be used, or the store cannot be written.
    """
    models.artifacts = ready
    request = request_for(study, step, store, ready)
    state = store.state(step.stage, request.fingerprint)
    why = {"cached": "up to date", "broken": state.reason}.get(state.word) or store.explain(request)
    context = Context(
        study=study,
        step=step,
        inputs={name: ready[source.step] for name, source in step.inputs.items()},
        models=models.for_step(step),
        report=report,
    )
    built = store.get_or_build(request, lambda folder: _build(context, folder))
    return Taken(step, built, request.fingerprint, why)


def _build(context: Context, folder: Path) -> Mapping[str, JSON]:
    module, function = context.step.builder.split(".")
    build: Build = getattr(importlib.import_module(f"cnt_pipeline.pipeline.builders.{module}"), function)
    return build(context, folder)
