"""Write a bundle of a finished study from the store's artifacts."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cnt_pipeline import __version__
from cnt_pipeline.lineage import bom, envelope, events, layout, oms
from cnt_pipeline.lineage.folder import copy_checked
from cnt_pipeline.lineage.models import tensor_document
from cnt_pipeline.lineage.record import Bundle, Index, dumps, wiring_of
from cnt_pipeline.lineage.statement import statement
from cnt_pipeline.lineage.suites import suite_texts
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.outcome import CHECKPOINT, metrics_of
from cnt_pipeline.pipeline.places import folder_of
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.store import Artifact, FileRecord
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.study.schema import Study

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Material:
    """A finished study: its text, the steps that its report needs, and their artifacts by key."""

    study: Study
    text: bytes
    steps: Sequence[Step]
    ready: Mapping[str, Artifact]


@dataclass(frozen=True)
class Signing:
    """How a bundle is signed: an ed25519 key for its statement, a file with a P-256 key for the whole folder."""

    key: "Ed25519PrivateKey | None" = None
    oms_key: Path | None = None


def write_bundle(
    material: Material, folder: Path, signing: Signing, *, weights: bool, exported: bool = False, lineage: bool = False
) -> Index:
    """Fill the empty `folder`; the index. With `exported` the checkpoint lies around the folder and the bundle holds
    what proves it; with `lineage` there are OpenLineage events too.

    Raises:
        BrokenArtifactError: a file of the store is damaged.
        InputError: a package that was asked for is not installed, a key cannot be used, or a model or a suite
            file is gone.
    """
    study, ready = material.study, material.ready
    for key, artifact in ready.items():
        manifest = folder / layout.manifest_name(key)
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(artifact.manifest.to_json(), encoding="utf-8")
        for name in layout.held(key, artifact.manifest, exported, weights):
            copy_checked(artifact.path(name), folder / key / name, artifact.manifest.files[name].sha256)
    (folder / layout.STUDY).write_bytes(material.text)
    # Without defaults: a rule may tell a key that was written from one that was not.
    _write(folder / layout.RESOLVED, study.model_dump(mode="json", by_alias=True, exclude_unset=True))
    for name, text in suite_texts(study).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    _write(folder / layout.TENSORS, _tensors(material))
    manifests = {step.key: ready[step.key].manifest for step in material.steps}
    wiring = wiring_of(material.steps)
    if not exported:
        _write(folder / layout.BOM, bom.document(study, manifests, [row.model_dump() for row in metrics_of(ready)]))
    if lineage:
        events.write_events(study.study, wiring, manifests, folder / layout.EVENTS)
    index = Index(
        study=study.study,
        purpose=study.purpose,
        exported=exported,
        weights=weights,
        created=datetime.now(UTC).isoformat(timespec="milliseconds"),
        code={"version": __version__, "sha256": code_digest()},
        steps=wiring,
        files={name: _recorded(folder / name) for name in names_below(folder)},
    )
    (folder / layout.INDEX).write_text(index.to_json(), encoding="utf-8")
    made = statement(Bundle(folder, index, None), dict(sorted(manifests.items())), hash_file(folder / layout.INDEX))
    payload = dumps(made).encode()
    (folder / layout.STATEMENT).write_bytes(payload)
    if signing.key is not None:
        (folder / layout.ENVELOPE).write_text(envelope.sign(payload, signing.key), encoding="utf-8")
    if signing.oms_key is not None:
        oms.sign(folder, signing.oms_key)
    return index


def names_below(folder: Path) -> list[str]:
    """Names of all files below a folder, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def code_digest() -> str:
    """SHA-256 over names and contents of the library's modules and tables, as they are installed now."""
    total = hashlib.sha256()
    for path in sorted(path for path in _ROOT.rglob("*") if path.suffix in (".py", ".sql", ".toml", ".j2")):
        total.update(f"{path.relative_to(_ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def _tensors(material: Material) -> object:
    """Digests of every tensor; the donor is the one that the checkpoint's neurons were read from."""
    step = next(step for step in material.steps if step.key == CHECKPOINT)
    target, donor = (
        folder_of(material.study, step.inputs[role].step.removeprefix("models/"), material.ready)
        for role in ("target", "donor")
    )
    assert target is not None and donor is not None  # their steps are among the artifacts
    checkpoint = material.ready[CHECKPOINT].folder() / layout.MODEL
    return tensor_document(read_index(target), read_index(donor), read_index(checkpoint))


def _recorded(path: Path) -> FileRecord:
    return FileRecord(hash_file(path), path.stat().st_size)


def _write(path: Path, document: object) -> None:
    path.write_text(dumps(document), encoding="utf-8")
