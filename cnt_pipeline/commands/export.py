"""`cnt export`: a finished transplant as a model folder of its own, outside the store."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from cnt_pipeline.commands.console import out
from cnt_pipeline.errors import GateError, InputError
from cnt_pipeline.lineage.folder import copy_checked, whole_folder
from cnt_pipeline.lineage.keys import read_private_key
from cnt_pipeline.lineage.layout import DONOR, INSIDE_EXPORT, MODEL, is_weights
from cnt_pipeline.lineage.write import Material, Signing, write_bundle
from cnt_pipeline.pipeline.chain import CARD, CARD_BESIDE_CHECKPOINT
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT, SELECTION, verdict_of
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.store.manifest import FileRecord, Manifest, content_digest
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study


def export_transplant(
    path: Path, destination: Path, store: str | None, despite_failed_gates: bool, key: Path | None = None
) -> None:
    """Copy the transplant of the study in `path` to `destination`, every file checked against its digest on the way.

    The folder holds the checkpoint, its model card (README.md), its patches, neurons.parquet and verification.json, so
    that transformers loads it, `cnt revert` undoes it, and patch.parquet alone tells whoever has the target all of it
    (`cnt apply`); in `lineage` lies what `cnt verify` needs, signed with the ed25519 key in `key`. It appears whole or
    not at all.

    Raises:
        InputError: the study is not run as it is now, or is a stress test.
        GateError: a quality gate failed.
        StoreError: `destination` holds something or cannot be written, or the store is damaged.
    """
    study, opened = load_study(path), Store(store_url(store))
    if study.purpose == "stress_test":
        raise InputError(
            f"{study.study} is a stress test: its result is the report on how few neurons hold the function, and its "
            "checkpoint is not exported"
        )
    material = finished(study, opened, path)
    refuse_made_for_a_stress_test(opened, material.ready[CHECKPOINT])
    verdict = passed(material, despite_failed_gates)
    signing = Signing(read_private_key(key) if key else None)
    files = _files(material.ready)
    with whole_folder(destination) as folder:
        for name, (source, record) in files.items():
            copy_checked(source, folder / name, record.sha256)
        (folder / INSIDE_EXPORT).mkdir()
        write_bundle(material, folder / INSIDE_EXPORT, signing, weights=True, exported=True)
    size = size_text(sum(record.size for _, record in files.values()))
    console = out()
    console.print(
        f"{destination} holds the transplant of {study.study}: {len(files)} files, {size}, with their recorded digests",
        markup=False,
        soft_wrap=True,
    )
    if verdict["verdict"] != "pass":
        console.print(f"it failed quality gates: {verdict['sentence']}", markup=False, soft_wrap=True)


def finished(study: Study, store: Store, path: Path) -> Material:
    """The study with the artifacts of all steps that its report was made from.

    Raises:
        InputError: one of them is not in the store.
    """
    planned = plan(study, store)
    steps = needed_for([REPORT], [each.step for each in planned])
    found = {each.step.key: each.artifact for each in planned if each.artifact is not None}
    if any(step.key not in found for step in steps):
        missing = sum(each.state != "cached" for each in planned)
        raise InputError(
            f"{study.study} is not up to date ({missing} of {len(planned)} steps are to build), so there is no "
            f"finished transplant to export: run `cnt run {path}` first"
        )
    return Material(study, path.read_bytes(), steps, {step.key: found[step.key] for step in steps})


def passed(material: Material, despite_failed_gates: bool) -> dict[str, Any]:
    """The verdict of a study that may leave the store.

    Raises:
        GateError: a quality gate failed, and it is not to leave despite that.
    """
    verdict = verdict_of(material.ready)
    if verdict["verdict"] != "pass" and not despite_failed_gates:
        raise GateError(
            f"{material.study.study} did not pass its quality gates and is not exported: {verdict['sentence']} "
            "Read the report, or export it all the same with --despite-failed-gates"
        )
    return verdict


def refuse_made_for_a_stress_test(store: Store, checkpoint: Artifact) -> None:
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
    if _deletes_refusal(store, plans):
        raise InputError("this checkpoint deletes refusal, which only a stress test does: it is not exported")


def refuse_adapter_of_a_stress_test(store: Store, ready: Mapping[str, Artifact]) -> None:
    """Refuse the adapter of a donor by which a stress test of the store deleted refusal: added to its base, it removes
    refusal as the checkpoint would.

    Raises:
        InputError: saying so.
    """
    made = ready[CHECKPOINT].manifest
    if not any(is_weights(DONOR, name) for name in ready[DONOR].manifest.files):
        return
    plans = {
        manifest.inputs.get("plan")
        for manifest in store.artifacts(made.stage)
        if manifest.slice.get("purpose") == "stress_test" and manifest.inputs.get("donor") == made.inputs["donor"]
    }
    if _deletes_refusal(store, plans):
        raise InputError(
            "a stress test of this store deleted refusal with the same donor, whose adapter therefore stays here: give "
            "--no-weights to bundle the evidence without it"
        )


def _deletes_refusal(store: Store, plans: Set[str | None]) -> bool:
    """Whether one of the plans, by its digest, was made by a selection that deletes refusal."""
    for manifest in store.artifacts(SELECTION.split("/")[0]):
        deletes = manifest.slice.get("metric") == "refusal" and manifest.slice.get("direction") == "delete"
        plan_file = manifest.files.get("plan.parquet")
        if manifest.key == SELECTION and deletes and plan_file and content_digest({"plan.parquet": plan_file}) in plans:
            return True
    return False


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
