"""Prove a bundle or an exported checkpoint: file by file, link by link, to the first that does not hold.

Needs neither the store nor Dagster, and torch only to dequantise a GGUF file. What a reviewer did not give (a key, the
models) is listed as unchecked.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cnt_pipeline.lineage.chain import check_chain, check_study
from cnt_pipeline.lineage.files import check_artifacts, check_checkpoint_folder, check_index
from cnt_pipeline.lineage.record import Broken, Bundle, Proof, open_bundle
from cnt_pipeline.lineage.signatures import check_oms, check_signed, check_statement
from cnt_pipeline.lineage.stress_test import check_stress_test
from cnt_pipeline.lineage.weights import PLAN, check_models, check_neurons, check_tensors
from cnt_pipeline.transplants.plan import read_plan

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


@dataclass(frozen=True)
class Given:
    """What the reviewer brings: public keys, the models, and the checkpoint where it lies elsewhere."""

    public_key: "Ed25519PublicKey | None" = None
    oms_key: Path | None = None
    target: Path | None = None
    donor: Path | None = None
    checkpoint: Path | None = None


def verify(path: Path, given: Given) -> Proof:
    """The proof of the bundle or exported checkpoint in `path`.

    Raises:
        InputError: `path` is neither, or something that was given cannot be used.
        StoreError: there is no room to dequantise a GGUF file.
    """
    proof = Proof()
    try:
        _prove(open_bundle(path, given.checkpoint), given, proof)
    except Broken as broken:
        proof.broken = broken
    return proof


def _prove(bundle: Bundle, given: Given, proof: Proof) -> None:
    """Every check in turn: first that the files are those indexed and signed, then that they tell one story."""
    proof.study = bundle.index.study
    check_index(bundle, proof)
    check_signed(bundle, given.public_key, proof)
    check_oms(bundle, given.oms_key, proof)
    manifests = bundle.manifests()
    check_stress_test(bundle, manifests)
    check_artifacts(bundle, manifests, proof)
    check_checkpoint_folder(bundle, manifests, proof)
    check_chain(bundle, manifests, proof)
    check_models(bundle, manifests, proof)
    check_study(bundle, manifests, proof)
    check_statement(bundle, manifests, proof)
    plan = read_plan(bundle.path(PLAN))
    check_tensors(bundle, plan, proof)
    check_neurons(bundle, manifests, plan, given.target, given.donor, proof)
