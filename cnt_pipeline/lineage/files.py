"""Every file of a bundle against its index, and every artifact's file against its step's manifest."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.record import Broken, Bundle, Proof
from cnt_pipeline.pipeline.chain import CARD, CARD_BESIDE_CHECKPOINT
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT
from cnt_pipeline.store import FileRecord, Manifest


def check_index(bundle: Bundle, proof: Proof) -> None:
    """Re-hash every file that the index names, and the index itself.

    Raises:
        Broken: a file is absent, changed, or in the folder without being in the index.
    """
    files = bundle.index.files
    for name, record in files.items():
        _same(bundle, bundle.path(name), name, record, layout.INDEX)
    for path in sorted(bundle.folder.rglob("*")):
        name = path.relative_to(bundle.folder).as_posix()
        if path.is_symlink() or (path.is_file() and name not in files and name not in layout.OUTSIDE_INDEX):
            raise Broken(name, f"{name} lies in the bundle but not in {layout.INDEX}: nothing vouches for it")
    proof.proven.append(f"all {len(files)} files have the SHA-256 that {layout.INDEX} records")
    proof.index_digest = bundle.sha256(bundle.path(layout.INDEX))


def check_artifacts(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """Each file of the index against the manifest of its step, and what the bundle leaves out.

    Raises:
        Broken: a file differs from what its step wrote, or belongs to none.
    """
    known = {*layout.VIEWS, *map(layout.manifest_name, manifests)}
    of_artifacts = {f"{key}/{name}": record for key, each in manifests.items() for name, record in each.files.items()}
    for name, record in bundle.index.files.items():
        if name in known or name.startswith(layout.SUITES):  # `check_study` says which suites there are
            continue
        if name not in of_artifacts:
            raise Broken(name, f"{name} is no file that a step of the study wrote: nothing says where it comes from")
        if record != of_artifacts[name]:
            raise Broken(
                name,
                f"{name} is not what its step wrote: its manifest records {_short(of_artifacts[name].sha256)}, "
                f"the bundle holds {_short(record.sha256)}",
                of_artifacts[name].sha256,
                record.sha256,
            )
    held = sum(name in of_artifacts for name in bundle.index.files)
    proof.proven.append(f"{held} files of {len(manifests)} steps are those that the steps' manifests record")
    index = bundle.index
    expected = (
        f"{key}/{name}"
        for key, manifest in manifests.items()
        for name in layout.held(key, manifest, index.exported, index.weights)
    )
    for name in (layout.STUDY, layout.RESOLVED, layout.TENSORS, *map(layout.manifest_name, manifests), *expected):
        if name not in index.files:
            raise Broken(name, f"{name} is not named by {layout.INDEX}, as in every bundle: it was taken out")
    left = len(of_artifacts) - held
    if left:
        proof.unchecked.append(f"{left} files of the steps are not in the bundle and are known by their digests alone")


def check_checkpoint_folder(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """The model folder that the reviewer holds is the one evaluated: every file of it, and no file beside.

    Raises:
        Broken: a file differs, is absent or does not belong there.
    """
    folder = bundle.checkpoint
    if folder is None:
        proof.unchecked.append(
            "the checkpoint's weights were left out: give the folder that you hold with --checkpoint to compare it"
        )
        return
    manifest, expected = manifests[CHECKPOINT], set[str]()
    for name, record in manifest.files.items():
        place = bundle.place(CHECKPOINT, name)
        if name.startswith(layout.MODEL) or bundle.index.exported:
            if place is not None and place != bundle.folder / CHECKPOINT / name:  # the others were compared already
                _same(bundle, place, name.removeprefix(layout.MODEL), record, f"the manifest of {CHECKPOINT}")
            expected.add(name.removeprefix(layout.MODEL))
    card = manifests[REPORT].files[CARD]
    if bundle.index.exported:
        _same(bundle, folder / CARD_BESIDE_CHECKPOINT, CARD_BESIDE_CHECKPOINT, card, f"the manifest of {REPORT}")
    own = {CARD_BESIDE_CHECKPOINT, *(name.removeprefix(layout.MODEL) for name in manifest.files)}
    hidden = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name.startswith(".") or "/." in name:
            hidden += path.is_file()
        elif path.is_file() and name not in own and not name.startswith(f"{layout.INSIDE_EXPORT}/"):
            raise Broken(name, f"{name} lies in the checkpoint but was not evaluated with it: a loader might read it")
    proof.proven.append(f"the checkpoint is the one evaluated: {len(expected)} files with the SHA-256 of {CHECKPOINT}")
    if hidden:
        proof.unchecked.append(f"{hidden} hidden files of the checkpoint's folder were not looked at")


def _same(bundle: Bundle, path: Path, name: str, record: FileRecord, said: str) -> None:
    if not path.is_file():
        raise Broken(name, f"{name} is absent, but {said} names it: the folder is not whole", record.sha256)
    found = bundle.sha256(path)
    if found != record.sha256 or path.stat().st_size != record.size:
        raise Broken(
            name,
            f"{name} was changed: {said} records the SHA-256 {_short(record.sha256)}, the file has {_short(found)}",
            record.sha256,
            found,
        )


def _short(digest: str) -> str:
    return digest[:12]
