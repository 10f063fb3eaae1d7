"""A forger who knows the format and has no key: after any change, everything in a bundle agrees with itself again."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.digests import tensor_digests
from cnt_pipeline.lineage.record import Broken, Bundle, Index, dumps, open_bundle
from cnt_pipeline.lineage.statement import statement
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.outcome import CHECKPOINT
from cnt_pipeline.store import FileRecord, Manifest
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.store.manifest import content_digest
from cnt_pipeline.study.fingerprint import fingerprint


def broken(path: Path, given: Given | None = None) -> Broken:
    """The link that `verify` names as broken."""
    found = verify(path, given or Given()).broken
    assert found is not None
    return found


def rehash_index(folder: Path) -> None:
    """Write the SHA-256 of every file into bundle.json, and nothing else."""
    bundle = open_bundle(folder)
    files = {name: record(folder / name) for name in bundle.index.files}
    (folder / layout.INDEX).write_text(replace(bundle.index, files=files).to_json())


def rewrite_manifests(folder: Path, keys: Iterable[str] | None = None) -> None:
    """Let the manifests of `keys` (all by default) record the files as they are, and name their inputs anew."""
    bundle = open_bundle(folder)
    manifests = bundle.manifests()
    for _ in range(len(manifests)):  # digests move down the chain by a step each time
        manifests = {
            key: settled(bundle, key, manifests) if keys is None or key in keys else manifest
            for key, manifest in manifests.items()
        }
    for key, manifest in manifests.items():
        (folder / layout.manifest_name(key)).write_text(manifest.to_json())


def settled(bundle: Bundle, key: str, manifests: dict[str, Manifest]) -> Manifest:
    """The manifest of one step after what it names has changed."""
    made, wiring = manifests[key], bundle.index.steps[key]
    files = dict(made.files)
    for name in files:
        place = bundle.folder / key / name
        files[name] = record(place) if place.is_file() else files[name]
    inputs = dict(made.inputs)
    for name, link in wiring.items():
        inputs[name] = manifests[link.step].digest_of(link.files or None)
        if f"{name} fingerprint" in inputs:
            inputs[f"{name} fingerprint"] = manifests[link.step].fingerprint
    named = fingerprint(made.stage, made.stage_version, made.slice, inputs)
    return replace(made, files=files, inputs=inputs, digest=content_digest(files), fingerprint=named)


def rewrite_tensors(folder: Path) -> None:
    """Record the digests of the checkpoint's tensors as they are."""
    import json

    document = json.loads((folder / layout.TENSORS).read_text())
    for name, digest in tensor_digests(read_index(folder / CHECKPOINT / "model")).items():
        document[name]["checkpoint"] = digest
    (folder / layout.TENSORS).write_text(dumps(document))


def restate(folder: Path) -> None:
    """Make the statement anew. Whoever signed the old one did not sign this one."""
    bundle = open_bundle(folder)
    made = statement(bundle, bundle.manifests(), hash_file(folder / layout.INDEX))
    (folder / layout.STATEMENT).write_text(dumps(made))


def add_file(folder: Path, key: str, name: str, source: Path) -> None:
    """Put a file into a bundle as if the step `key` had written it and `cnt bundle` taken it along."""
    place, manifest = folder / key / name, folder / layout.manifest_name(key)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(source.read_bytes())
    made = Manifest.from_json(manifest.read_bytes())
    files = {**made.files, name: record(place)}
    manifest.write_text(replace(made, files=files, digest=content_digest(files)).to_json())
    index = index_of(folder)
    (folder / layout.INDEX).write_text(replace(index, files={**index.files, f"{key}/{name}": record(place)}).to_json())
    agree(folder)


def agree(folder: Path) -> None:
    """Let manifests, index and statement follow from the files; the signatures stay as they were."""
    rewrite_manifests(folder)
    rehash_index(folder)
    restate(folder)


def unsign(folder: Path) -> None:
    """Take the signatures out."""
    for name in (layout.ENVELOPE, layout.OMS_SIGNATURE):
        (folder / name).unlink(missing_ok=True)


def forge(folder: Path) -> None:
    """Everything at once, without a signature."""
    rewrite_tensors(folder)
    agree(folder)
    unsign(folder)


def record(path: Path) -> FileRecord:
    return FileRecord(hash_file(path), path.stat().st_size)


def index_of(folder: Path) -> Index:
    return open_bundle(folder).index
