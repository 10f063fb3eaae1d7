"""`cnt export`: a finished transplant as a model folder of its own, outside the store."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.commands.console import out
from cnt_pipeline.errors import BrokenArtifactError, GateError, InputError
from cnt_pipeline.pipeline.chain import CARD, CARD_BESIDE_CHECKPOINT
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT, SELECTION, VERDICT, verdict_of
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.store.manifest import FileRecord, Manifest, content_digest
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.new_files import new_folder, writing

MODEL = "model/"
_CHUNK = 8 << 20


def export_transplant(path: Path, destination: Path, store: str | None, despite_failed_gates: bool) -> None:
    """Copy the transplant of the study in `path` to `destination`, every file checked against its digest on the way.

    The folder holds the checkpoint, its model card (README.md), its patches, neurons.parquet and verification.json, so
    that transformers loads it, `cnt revert` undoes it, and patch.parquet alone tells whoever has the target all of it
    (`cnt apply`). It appears whole or not at all.

    Raises:
        InputError: the study is not run as it is now, is a stress test, or `destination` holds something.
        GateError: a quality gate failed.
        StoreError: `destination` cannot be written, or the store is damaged.
    """
    study, opened = load_study(path), Store(store_url(store))
    _refuse_stress_test(study)
    ready = _finished(study, opened, path)
    _refuse_made_for_a_stress_test(opened, ready[CHECKPOINT])
    verdict = verdict_of(ready)
    if verdict["verdict"] != "pass" and not despite_failed_gates:
        raise GateError(
            f"{study.study} did not pass its quality gates and is not exported: {verdict['sentence']} "
            "Read the report, or export it all the same with --despite-failed-gates"
        )
    files = _files(ready)
    _write(files, destination)
    size = size_text(sum(record.size for _, record in files.values()))
    console = out()
    console.print(
        f"{destination} holds the transplant of {study.study}: {len(files)} files, {size}, with their recorded digests",
        markup=False,
        soft_wrap=True,
    )
    if verdict["verdict"] != "pass":
        console.print(f"it failed quality gates: {verdict['sentence']}", markup=False, soft_wrap=True)


def _finished(study: Study, store: Store, path: Path) -> dict[str, Artifact]:
    planned = {each.step.key: each for each in plan(study, store)}
    wanted = (CHECKPOINT, VERDICT, REPORT)
    found = {key: artifact for key in wanted if (artifact := planned[key].artifact) is not None}
    if len(found) < len(wanted):
        missing = sum(each.state != "cached" for each in planned.values())
        raise InputError(
            f"{study.study} is not up to date ({missing} of {len(planned)} steps are to build), so there is no "
            f"finished transplant to export: run `cnt run {path}` first"
        )
    return found


def _refuse_stress_test(study: Study) -> None:
    if study.purpose == "stress_test":
        raise InputError(
            f"{study.study} is a stress test: its result is the report on how few neurons hold the function, and its "
            "checkpoint is not exported"
        )


def _refuse_made_for_a_stress_test(store: Store, checkpoint: Artifact) -> None:
    """Refuse a checkpoint that any study of the store reached as a stress test, whatever its study file says now.

    Two studies may write the same bytes. The stress test counts: what it says of the checkpoint holds for every copy.
    A deletion of refusal is known by the selection that planned it, too.

    Raises:
        InputError: naming where it comes from.
    """
    model = _model_digest(checkpoint.manifest)
    plans = set()
    for manifest in store.artifacts(checkpoint.manifest.stage):
        if _model_digest(manifest) == model:
            plans.add(manifest.inputs.get("plan"))
            if manifest.slice.get("purpose") == "stress_test":
                raise InputError(
                    "the same checkpoint was made by a stress test in this store and is not exported: change the "
                    "study so that it makes another"
                )
    for manifest in store.artifacts(checkpoint.manifest.stage):
        deletes = manifest.slice.get("metric") == "refusal" and manifest.slice.get("direction") == "delete"
        plan_file = manifest.files.get("plan.parquet")
        if manifest.key == SELECTION and deletes and plan_file and content_digest({"plan.parquet": plan_file}) in plans:
            raise InputError("this checkpoint deletes refusal, which only a stress test does: it is not exported")


def _model_digest(manifest: Manifest) -> str:
    return content_digest({name: record for name, record in manifest.files.items() if name.startswith(MODEL)})


def _files(ready: Mapping[str, Artifact]) -> dict[str, tuple[Path, FileRecord]]:
    """What to copy, by name in the exported folder: where it lies, and its digest."""
    checkpoint, report = ready[CHECKPOINT], ready[REPORT]
    folder = checkpoint.folder()
    files = {
        name.removeprefix(MODEL): (folder / name, record) for name, record in checkpoint.manifest.files.items()
    }  # fmt: skip
    files[CARD_BESIDE_CHECKPOINT] = (report.path(CARD), report.manifest.files[CARD])
    return files


def _write(files: Mapping[str, tuple[Path, FileRecord]], destination: Path) -> None:
    """Copy `files` into a new folder."""
    with new_folder(destination, sum(record.size for _, record in files.values())) as claim:
        for name, (source, record) in files.items():
            place = claim(name)
            with writing(place):
                digest = _copy(source, place)
            if digest != record.sha256:
                raise BrokenArtifactError(f"{source} is damaged, so nothing was exported: `cnt run` builds it again")


def _copy(source: Path, place: Path) -> str:
    """Copy a file; the SHA-256 of what was read."""
    digest = hashlib.sha256()
    with source.open("rb") as reader, place.open("xb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    return digest.hexdigest()
