"""The chain from the checkpoint back to models and prompts: each step's inputs are what earlier steps wrote, and the
steps are what the study asks for."""

from collections.abc import Mapping

from pydantic import ValidationError

from cnt_pipeline.errors import CntError
from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.models import OUTSIDE
from cnt_pipeline.lineage.record import Broken, Bundle, Link, Proof, wiring_of
from cnt_pipeline.lineage.suites import reading_bundled, suite_names
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT, SCORES, SELECTION, VERDICT
from cnt_pipeline.pipeline.step import VERSIONS, Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.pipeline.suite_steps import HARNESS, harness_version
from cnt_pipeline.store import Manifest
from cnt_pipeline.study.fingerprint import canonical_json, fingerprint
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Judge, Study

ENDS = (CHECKPOINT, REPORT)
"""Where the walk begins."""
_NEEDED = ("models/target", layout.DONOR, layout.PROMPT_SETS, SELECTION, CHECKPOINT, SCORES, VERDICT, REPORT)
FINGERPRINT = " fingerprint"
"""Ends the name under which a step that names its inputs has an input's fingerprint."""


def check_chain(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """Walk from the checkpoint and the report back; every input's digest is that of the named files.

    Raises:
        Broken: naming the step, its input and the step that it should come from.
    """
    absent = next((key for key in _NEEDED if key not in manifests), None)
    if absent is not None:
        raise Broken(layout.INDEX, f"{layout.INDEX} names no step {absent}, without which the chain does not hold")
    walked: dict[str, None] = {}
    waiting = list(reversed(ENDS))
    links = 0
    while waiting:
        key = waiting.pop()
        if key in walked:
            continue
        walked[key] = None
        links += _check_step(key, manifests, bundle.index.steps[key])
        waiting += sorted({link.step for link in bundle.index.steps[key].values()}, reverse=True)
    apart = sorted(manifests.keys() - walked.keys())
    if apart:
        raise Broken(
            layout.manifest_name(apart[0]),
            f"{layout.manifest_name(apart[0])} belongs to no step that the checkpoint or the report was made from",
        )
    proof.proven.append(
        f"{links} links hold from the checkpoint and the report over {len(walked)} steps back to models and prompts"
    )
    proof.unchecked.append("prompt sets are known as they were used; the sources that they were read from are not held")


def _check_step(key: str, manifests: Mapping[str, Manifest], inputs: Mapping[str, Link]) -> int:
    """The inputs of one step; how many there are."""
    manifest, file = manifests[key], layout.manifest_name(key)
    if manifest.stage != key.split("/")[0]:
        raise Broken(file, f"{file} is the record of a step of {manifest.stage}, not of {key}")
    named = fingerprint(manifest.stage, manifest.stage_version, manifest.slice, manifest.inputs)
    if named != manifest.fingerprint:
        raise Broken(
            file,
            f"{file} was altered: its fingerprint {manifest.fingerprint[:12]} does not follow from its settings and "
            f"inputs, which give {named[:12]}",
            manifest.fingerprint,
            named,
        )
    for name in sorted(manifest.inputs.keys() - {OUTSIDE}):
        link = inputs.get(name.removesuffix(FINGERPRINT))
        if link is None:
            raise Broken(layout.INDEX, f"{layout.INDEX} does not say where {key} has its input {name} from")
        if link.step not in manifests:
            raise Broken(layout.INDEX, f"{layout.INDEX} lets {key} read {link.step}, of which there is no manifest")
        source = manifests[link.step]
        found = source.fingerprint if name.endswith(FINGERPRINT) else _digest(key, name, link, source)
        if found != manifest.inputs[name]:
            what = ", ".join(link.files) or "all files"
            raise Broken(
                file,
                f"{key} was not made from this {link.step}: its input {name} had the digest "
                f"{manifest.inputs[name][:12]}, {what} of {link.step} has {found[:12]}",
                manifest.inputs[name],
                found,
            )
    unread = sorted(inputs.keys() - manifest.inputs.keys())
    if unread:
        raise Broken(layout.INDEX, f"{layout.INDEX} lets {key} read {unread[0]}, which its manifest does not name")
    return len(inputs)


def _digest(key: str, name: str, link: Link, source: Manifest) -> str:
    try:
        return source.digest_of(link.files or None)
    except KeyError as error:
        raise Broken(layout.INDEX, f"{key} cannot have its input {name} from {link.step}: {error.args[0]}") from None


def check_study(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """The steps, their settings and their inputs are those that the study asks for, as this cnt_pipeline reads it.

    Raises:
        Broken: the study asks for something else.
    """
    other = _other_code(bundle, manifests)
    if other:
        proof.unchecked.append(f"the study was not compared with the steps' settings: {other}")
        return
    for name, study in ((layout.STUDY, _written(bundle)), (layout.RESOLVED, read_resolved(bundle))):
        if (study.study, study.purpose) != (bundle.index.study, bundle.index.purpose):
            raise Broken(name, f"{name} is another study than {layout.INDEX} names: {study.study}, {study.purpose}")
        _same_suites(bundle, name, study)
        steps = _steps(name, study)
        wiring = wiring_of(steps.values())
        if wiring.keys() != manifests.keys():
            odd = sorted(wiring.keys() ^ manifests.keys())[0]
            raise Broken(name, f"{name} was not the study that was run: only one of them has the step {odd}")
        for key, step in steps.items():
            if canonical_json(dict(step.slice)) != canonical_json(manifests[key].slice):
                raise Broken(name, f"{name} was not the study that was run: it asks {key} for other settings")
            if wiring[key] != bundle.index.steps[key]:
                raise Broken(layout.INDEX, f"{layout.INDEX} lets {key} read other files than the study asks for")
    proof.proven.append(f"{layout.STUDY} asks for exactly these {len(manifests)} steps, settings and inputs")
    outside = [key for key, step in steps.items() if _judges_from_outside(step)]
    if outside:
        proof.unchecked.append(f"what {', '.join(outside)} read from outside is known by its digest and is not held")


def _other_code(bundle: Bundle, manifests: Mapping[str, Manifest]) -> str:
    """What other code than this one made the steps, and what to install; empty where it is the same."""
    stages = sorted({each.stage for each in manifests.values() if each.stage_version != VERSIONS.get(each.stage)})
    if stages:
        return (
            f"the stages {', '.join(stages)} have another version in this cnt_pipeline, so install cnt_pipeline "
            f"{bundle.index.code.get('version')} as it was then"
        )
    for asked in sorted({str(each.slice[HARNESS]) for each in manifests.values() if HARNESS in each.slice}):
        if asked != harness_version():
            return (
                f"lm-evaluation-harness {asked} asked its tasks, and here is {harness_version() or 'none'}, so "
                f"run pip install lm-eval=={asked}"
            )
    return ""


def _same_suites(bundle: Bundle, name: str, study: Study) -> None:
    """The suite files in the bundle are those that the study names, no more and no less."""
    held = {file for file in bundle.index.files if file.startswith(layout.SUITES)}
    odd = sorted(held ^ suite_names(study))
    if odd:
        verb = "does not name" if odd[0] in held else "names"
        raise Broken(odd[0], f"{name} {verb} the suite of {odd[0]}, against what lies in the bundle")


def _judges_from_outside(step: Step) -> bool:
    """Whether a step asks a judge or tasks that are no part of cnt_pipeline."""
    if isinstance(step.external, Judge):
        return step.external.kind != "phrases"
    return step.stage == "evaluations" and step.external is not None


def read_resolved(bundle: Bundle) -> Study:
    """The study as it was read, with the absolute places of its files; suites of its own are read from the bundle.

    Raises:
        Broken: it is no study.
    """
    try:
        study = Study.model_validate_json(bundle.path(layout.RESOLVED).read_bytes())
    except (OSError, ValidationError):
        raise Broken(layout.RESOLVED, f"{layout.RESOLVED} is no study that this cnt_pipeline can read") from None
    return reading_bundled(study, bundle.folder)


def _written(bundle: Bundle) -> Study:
    try:
        return reading_bundled(load_study(bundle.path(layout.STUDY)), bundle.folder)
    except CntError as error:
        raise Broken(layout.STUDY, f"{layout.STUDY} is no study that this cnt_pipeline can read ({error})") from None


def _steps(name: str, study: Study) -> dict[str, Step]:
    try:
        return {step.key: step for step in needed_for([REPORT], steps_of(study))}
    except CntError as error:
        raise Broken(name, f"{name} names what this cnt_pipeline does not know ({error})") from None
