"""Only the declared neurons changed: by the digests of every tensor, and with target and donor byte for byte."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.held import Recorded, held_model
from cnt_pipeline.lineage.models import (
    DESCRIPTION,
    OUTSIDE,
    given_models,
    made_models,
    model_files,
    model_step,
)
from cnt_pipeline.lineage.record import Broken, Bundle, Proof
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.outcome import CHECKPOINT, SELECTION
from cnt_pipeline.store import Manifest
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text
from cnt_pipeline.transplants.donor import DonorNeurons
from cnt_pipeline.transplants.plan import TransplantPlan
from cnt_pipeline.transplants.verify import Comparison, Deviation

PLAN = f"{SELECTION}/plan.parquet"
_TENSOR_COLUMNS = ("tensor", "bias")


def check_models(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """The description of every model from outside is what its step read, that of every other what its step made.

    Raises:
        Broken: it is not.
    """
    given = given_models(bundle, manifests)
    for key, files in given.items():
        digest = files.get("") or sha256_text(canonical_json(files))
        if digest != manifests[key].inputs[OUTSIDE]:
            raise Broken(
                layout.manifest_name(key),
                f"{key} was not read from the files that it describes: they have the digest {digest[:12]}, its step "
                f"read {manifests[key].inputs[OUTSIDE][:12]}",
                manifests[key].inputs[OUTSIDE],
                digest,
            )
    proof.proven.append(f"{', '.join(given)}: the described files are those that were read")
    for key, files in made_models(manifests).items():
        described = model_files(bundle, key)
        other = next((name for name in described if files.get(name) != described[name]), None)
        if other is not None:
            raise Broken(
                f"{key}/{DESCRIPTION}",
                f"{key}/{DESCRIPTION} describes another {other} than the one that the step made",
                files.get(other),
                described[other],
            )
        proof.proven.append(f"{key} was made from {_origin(bundle, manifests, key)}, known by their digests")


def _origin(bundle: Bundle, manifests: Mapping[str, Manifest], key: str) -> str:
    """What a model was made from: another model, prompts, an adapter or a file from outside."""
    named = [
        f"{', '.join(link.files)} of {link.step}" if link.step == layout.PROMPT_SETS else link.step
        for link in bundle.index.steps[key].values()
    ]
    if OUTSIDE in manifests[key].inputs:
        named.append("an adapter from outside" if named else "a GGUF file")
    return " and ".join(named)


def check_tensors(bundle: Bundle, plan: TransplantPlan, proof: Proof) -> None:
    """Tensors without a declared neuron have the target's digest, and the checkpoint's are as recorded.

    Raises:
        Broken: naming the tensor.
    """
    tensors = _read_tensors(bundle)
    declared = {name for column in _TENSOR_COLUMNS for name in plan.table.column(column).unique().to_pylist() if name}
    if bundle.checkpoint is not None:
        found = bundle.digests.of_tensors(read_index(bundle.checkpoint))
        for name in sorted(found.keys() | tensors.keys()):
            recorded = tensors.get(name, {}).get("checkpoint")
            if found.get(name) != recorded:
                raise Broken(
                    layout.TENSORS,
                    f"{layout.TENSORS} records another {name} than the checkpoint holds",
                    recorded,
                    found.get(name),
                )
    changed = {name for name, tensor in tensors.items() if tensor["checkpoint"] != tensor["target"]}
    stray = sorted(changed - declared)
    if stray:
        raise Broken(
            layout.TENSORS,
            f"the tensor {stray[0]} differs from the target's, but {PLAN} declares no neuron of it",
            tensors[stray[0]]["target"],
            tensors[stray[0]]["checkpoint"],
        )
    proof.proven.append(
        f"{len(tensors) - len(changed)} of {len(tensors)} tensors have the target's digest; the other {len(changed)} "
        f"hold the {len(plan):,} declared neurons"
    )


def check_neurons(
    bundle: Bundle,
    manifests: Mapping[str, Manifest],
    plan: TransplantPlan,
    target: Path | None,
    donor: Path | None,
    proof: Proof,
) -> None:
    """With both models: every byte of the checkpoint is the target's, but for the declared neurons, which are what the
    edit rule makes of the donor's. Each model is a folder, or the GGUF file that the study made one of.

    Raises:
        Broken: naming tensor and row, or a model that is not the one of the bundle.
        InputError: as `held_model`.
        StoreError: as `held_model`.
    """
    given = [(Recorded(bundle, manifests, role), place) for role, place in (("target", target), ("donor", donor))]
    with ExitStack() as stack:
        folders = {
            model.role: stack.enter_context(held_model(model, place, proof))
            for model, place in given
            if place is not None
        }
        missing = [model for model, place in given if place is None]
        if missing:
            options = " and ".join(f"--{model.role}" for model in missing)
            places = "; ".join(model.source for model in missing)
            proof.unchecked.append(
                f"that inside the changed tensors only the declared neurons differ was not proven: give {options} "
                f"({places})"
            )
        elif bundle.checkpoint is None:
            proof.unchecked.append(
                "target and donor were not compared with the checkpoint, whose weights were left out"
            )
        else:
            _settings_of(bundle, manifests[CHECKPOINT])
            proof.proven.append(_compare(bundle.checkpoint, folders["target"], folders["donor"], plan))


def _settings_of(bundle: Bundle, manifest: Manifest) -> None:
    """Config, tokenizer and template of the checkpoint are the target's."""
    for name, sha256 in model_files(bundle, model_step(bundle, "target")).items():
        record = manifest.files.get(f"{layout.MODEL}{name}")
        if record is None or (record.sha256 != sha256 and not name.endswith(".safetensors")):
            raise Broken(f"{CHECKPOINT}/{layout.MODEL}{name}", f"{name} of the checkpoint is not the target's", sha256)


def _compare(checkpoint: Path, target: Path, donor: Path, plan: TransplantPlan) -> str:
    of_target, of_donor = read_index(target), read_index(donor)
    edits = plan.edits(of_target, of_donor)
    check = Comparison(of_target, checkpoint)
    try:
        with DonorNeurons(of_donor) as neurons:
            for file in of_target.files:
                check.weights(file, edits[file], neurons)
    except Deviation as deviation:
        raise Broken(str(deviation).split(":")[0], f"not only the declared neurons changed: {deviation}") from None
    return (
        f"only the declared neurons changed: {check.compared:,} bytes compared, {len(plan):,} neurons are the donor's, "
        f"{check.changed:,} parameters differ from the target's"
    )


def _read_tensors(bundle: Bundle) -> dict[str, dict[str, str]]:
    try:
        document: dict[str, dict[str, str]] = json.loads(bundle.path(layout.TENSORS).read_bytes())
        if any(not {"target", "checkpoint"} <= tensor.keys() for tensor in document.values()):
            raise ValueError("a digest is missing")
        return document
    except (OSError, ValueError, AttributeError):
        raise Broken(layout.TENSORS, f"{layout.TENSORS} is no readable list of the tensors' digests") from None
