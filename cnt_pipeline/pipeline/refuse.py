"""What no step of its own refuses: a study whose parts are each well formed but do not go together. From
headers alone."""

from cnt_pipeline.errors import StudyError
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.load import resolve_model
from cnt_pipeline.study.schema import Study


def refuse_impossible(study: Study) -> None:
    """Stop before anything is looked up or computed.

    Raises:
        StudyError: target and donor are one folder, or `method.families` names a family that the target has not.
        InputError: a model cannot be found or read.
    """
    target, donor = resolve_model(study.models.target), resolve_model(study.models.donor)
    if target.resolve() == donor.resolve():
        raise StudyError(
            f"{study.file}:models: target and donor are the same folder {target.resolve()}; name a donor "
            "that differs in the function"
        )
    if study.method.families is None:
        return
    architecture = read_architecture(target)
    unknown = next((family for family in study.method.families if family not in architecture.families), None)
    if unknown is not None:
        raise StudyError(
            f"{study.file}:method.families: {architecture.name} has no family '{unknown}'; choose among "
            f"{', '.join(architecture.families)}"
        )
