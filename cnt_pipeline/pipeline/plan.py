"""What the store already holds of a study: each step cached, to build or broken, and why. Imports neither
torch nor Dagster."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from cnt_pipeline.evaluations.task_files import task_sources
from cnt_pipeline.measures.judges.build import files_of
from cnt_pipeline.models.adapter_files import adapter_files
from cnt_pipeline.models.load import model_files
from cnt_pipeline.models.sources import resolve_gguf, resolve_model
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.pipeline.step import External, Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.schema import roles_of
from cnt_pipeline.prompt_sets.sources import source_digest
from cnt_pipeline.store import Artifact, BuildRequest, Store
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text
from cnt_pipeline.study.schema import AdapterSource, Judge, ModelSource, Part, Prompts, Study

_NAMED = 2
"""Steps that a reason to wait names."""


@dataclass(frozen=True)
class Planned:
    """One step and its state. Without a `request` the step waits for an input that is yet to be built."""

    step: Step
    state: Literal["cached", "to build", "broken"]
    why: str
    request: BuildRequest | None = None
    artifact: Artifact | None = None


def plan(study: Study, store: Store) -> list[Planned]:
    """The state of every step of `study`, in the order of the chain.

    Raises:
        CntError: the study names a method, model or prompt file that does not exist.
    """
    planned: list[Planned] = []
    ready: dict[str, Artifact] = {}
    steps = steps_of(study)
    refuse_impossible(study)
    for step in steps:
        waiting = sorted({source.step for source in step.inputs.values()} - ready.keys())
        if waiting:
            more = f" and {len(waiting) - _NAMED} more" if len(waiting) > _NAMED else ""
            planned.append(Planned(step, "to build", f"waits for {', '.join(waiting[:_NAMED])}{more}"))
            continue
        found = _look_up(study, step, store, ready)
        if found.artifact is not None:
            ready[step.key] = found.artifact
            if step.key == "models/target":
                refuse_impossible(study, ready)
        planned.append(found)
    return planned


def request_for(study: Study, step: Step, store: Store, ready: Mapping[str, Artifact]) -> BuildRequest:
    """What the step asks of the store, given the artifacts of the steps it reads."""
    inputs = {name: ready[source.step].digest_of(list(source.files) or None) for name, source in step.inputs.items()}
    if step.names_inputs:
        inputs |= {
            f"{name} fingerprint": ready[source.step].manifest.fingerprint for name, source in step.inputs.items()
        }
    if step.external is not None:
        inputs["files"] = external_digest(study, step.external, store)
    return BuildRequest(
        key=step.key,
        stage=step.stage,
        version=step.version,
        slice=step.slice,
        inputs=inputs,
        study=study.study,
        resumable=step.resumable,
    )


def _look_up(study: Study, step: Step, store: Store, ready: Mapping[str, Artifact]) -> Planned:
    request = request_for(study, step, store, ready)
    state = store.state(step.stage, request.fingerprint)
    if state.word == "cached":
        artifact = store.get(step.stage, request.fingerprint)
        return Planned(step, "cached", "up to date", request, artifact)
    if state.word == "broken":
        return Planned(step, "broken", state.reason, request)
    return Planned(step, "to build", store.explain(request), request)


def external_digest(study: Study, source: External, store: Store) -> str:
    """Digest of what a step reads from outside the store: contents, never names of places.

    Raises:
        InputError: something of it is not there.
    """
    if isinstance(source, ModelSource) and source.is_gguf:
        return store.file_digest(resolve_gguf(source))
    digests: dict[str, Any] = {}
    model = source.model if isinstance(source, Judge) else source
    if isinstance(source, Judge):
        digests["judge"] = [store.file_digest(path) for path in files_of(source)]
    if isinstance(model, ModelSource):
        folder = resolve_model(model)
        digests |= {str(path.relative_to(folder)): store.file_digest(path) for path in model_files(folder)}
    elif isinstance(source, tuple):
        files = [file for each in source for file in (task_sources(each) if isinstance(each, Part) else (each,))]
        digests["prompts"] = [source_digest(file, store.file_digest) for file in files]
    elif isinstance(source, AdapterSource):
        digests |= {path.name: store.file_digest(path) for path in adapter_files(source.adapter)}
    elif isinstance(source, Prompts):
        for split, kind in roles_of(study.models.taught_kinds()):
            if named := source.source(split, kind):
                digests[f"{split}.{kind}"] = [source_digest(each, store.file_digest) for each in named]
    return sha256_text(canonical_json(digests))
