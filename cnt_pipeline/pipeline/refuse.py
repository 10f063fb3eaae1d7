"""What no step of its own refuses: a study whose parts are each well formed but do not go together. From
headers alone."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.evaluations.suite_table import resolve_suites
from cnt_pipeline.evaluations.task_files import task_sources
from cnt_pipeline.measures.judges.build import refuse_unusable
from cnt_pipeline.models.adapter_files import read_adapter_header, read_settings
from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.models.sources import resolve_gguf, resolve_model
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.places import folder_of
from cnt_pipeline.prompt_sets.sources import locate
from cnt_pipeline.store import Artifact
from cnt_pipeline.study.schema import AdapterSource, LoraSft, ModelSource, PromptSource, Study


def refuse_impossible(study: Study, artifacts: Mapping[str, Artifact] | None = None) -> None:
    """Stop before anything is looked up or computed. What only a model that is yet to be made can tell is checked
    when it is there (`refuse_families`).

    Raises:
        StudyError: two models are one folder or file, or `method.families` or a recipe's `modules` name a family that
            the model has not.
        InputError: a model cannot be found or read, an adapter is none that can be merged into its base, a judge's
            model, template or function is not there, a suite's task file is no task, or the file or package of its
            prompts is not there.
    """
    named = study.models.named()
    places = {name: place_of(model) for name, model in named.items() if isinstance(model, ModelSource)}
    if "donor" in places and places.get("target") == places["donor"]:
        raise StudyError(
            f"{study.file}:models: target and donor are the same folder {places['target']}; name a donor "
            "that differs in the function"
        )
    for name, model in named.items():
        if isinstance(model, AdapterSource):
            _refuse_adapter(study, name, model, artifacts or {})
        wanted = (model.modules if isinstance(model, LoraSft) else None) or ()
        architecture = architecture_of(study, name, artifacts or {}) if wanted else None
        if architecture is not None:
            refuse_unknown(study, f"models.{name}.modules", wanted, architecture)
    for judge in study.judges:
        refuse_unusable(judge)
    for suite in resolve_suites(study):
        for part in suite.tasks:
            list(task_sources(part.part))
        for part in suite.asked:
            if part.source is not None and not part.source.hub:
                _refuse_absent(part.source, f"{study.file}:suites.{suite.key}.{part.name}")
    if study.method.families is not None:
        architecture = architecture_of(study, "target", artifacts or {})
        if architecture is not None:
            refuse_families(study, architecture)


def place_of(source: ModelSource) -> Path:
    """The folder or GGUF file of a source.

    Raises:
        InputError: it cannot be found.
    """
    return (resolve_gguf(source) if source.is_gguf else resolve_model(source)).resolve()


def _refuse_absent(source: PromptSource, place: str) -> None:
    try:
        locate(source)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None


def _refuse_adapter(study: Study, name: str, source: AdapterSource, artifacts: Mapping[str, Artifact]) -> None:
    """Refuse an adapter that does not fit its base, or only by its config where no base is on this machine yet."""
    read_settings(source.adapter)
    for ancestor in study.models.ancestry(name)[1:]:
        folder = folder_of(study, ancestor, artifacts)
        if folder is not None:
            index = read_index(folder)
            read_adapter_header(source.adapter, index, read_architecture(folder, index))
            return


def architecture_of(study: Study, name: str, artifacts: Mapping[str, Artifact]) -> Architecture | None:
    """The neuron spaces of a model, which a recipe's share with its base's; None where all are yet to be made."""
    for ancestor in study.models.ancestry(name):
        folder = folder_of(study, ancestor, artifacts)
        if folder is not None:
            return read_architecture(folder)
    return None


def refuse_families(study: Study, target: Architecture) -> None:
    """Refuse `method.families` that the target has not.

    Raises:
        StudyError: naming the families that it has.
    """
    refuse_unknown(study, "method.families", study.method.families or (), target)


def refuse_unknown(study: Study, key: str, wanted: tuple[str, ...], architecture: Architecture) -> None:
    """Refuse families that an architecture has not, naming the study's key.

    Raises:
        StudyError: naming the families that it has.
    """
    unknown = next((family for family in wanted if family not in architecture.families), None)
    if unknown is not None:
        raise StudyError(
            f"{study.file}:{key}: {architecture.name} has no family '{unknown}'; choose among "
            f"{', '.join(architecture.families)}"
        )
