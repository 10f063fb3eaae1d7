"""What was signed is what lies there: statement, envelope, and the signature of the whole folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnt_pipeline.lineage import envelope, layout, oms
from cnt_pipeline.lineage.record import Broken, Bundle, Proof, dumps
from cnt_pipeline.lineage.statement import statement
from cnt_pipeline.store import Manifest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def check_signed(bundle: Bundle, public: "Ed25519PublicKey | None", proof: Proof) -> None:
    """The signature over the statement, and that each file which the statement names is the one that lies there.

    Raises:
        Broken: it is not signed with this key, or a file was changed after signing.
    """
    payload = _read(bundle, layout.STATEMENT)
    signed = bundle.path(layout.ENVELOPE)
    if not signed.is_file():
        if public is not None:
            raise Broken(
                layout.ENVELOPE,
                f"{layout.ENVELOPE} is absent, so nobody signed this bundle: a key was given that should have",
            )
        proof.unchecked.append(
            "the bundle is not signed: it agrees with itself, but whoever could write it could write another"
        )
    else:
        text = signed.read_bytes()
        key = envelope.signer_of(text, payload)
        if public is None:
            proof.unchecked.append(f"a signature by the key {key[:12]} was not checked: give --public-key")
        else:
            envelope.check_signature(text, public)
            proof.proven.append(f"{layout.STATEMENT} is signed with the key {key[:12]}")
    for name, digest in _named(payload).items():
        record = bundle.index.files.get(name)
        if record is not None and record.sha256 != digest:
            raise Broken(
                name,
                f"{name} is not the file that {layout.STATEMENT} vouches for, which names {digest[:12]}: the file was "
                f"exchanged later, and {layout.INDEX} written anew with {record.sha256[:12]}",
                digest,
                record.sha256,
            )


def check_statement(bundle: Bundle, manifests: Mapping[str, Manifest], proof: Proof) -> None:
    """The statement says what the manifests say, to the letter, of this index.

    Raises:
        Broken: it says something else.
    """
    payload = _read(bundle, layout.STATEMENT)
    named = _named(payload).get(layout.INDEX)
    if named != proof.index_digest:
        raise Broken(
            layout.INDEX,
            f"{layout.INDEX} is not the one that {layout.STATEMENT} vouches for: one of them was changed later",
            named,
            proof.index_digest,
        )
    if dumps(statement(bundle, manifests, proof.index_digest)).encode() != payload:
        raise Broken(
            layout.STATEMENT,
            f"{layout.STATEMENT} does not say what the manifests say: it was changed, or made from another run",
        )
    proof.proven.append(f"{layout.STATEMENT} vouches for the checkpoint, the report, its figures and {layout.INDEX}")


def check_oms(bundle: Bundle, public: Path | None, proof: Proof) -> None:
    """The OpenSSF model signature of the folder.

    Raises:
        Broken: a file differs from what was signed, or a key was given and there is no signature.
    """
    present = bundle.path(layout.OMS_SIGNATURE).is_file()
    if public is None:
        if present:
            proof.unchecked.append(f"{layout.OMS_SIGNATURE} was not checked: give --oms-key")
        return
    if not present:
        raise Broken(layout.OMS_SIGNATURE, f"{layout.OMS_SIGNATURE} is absent, but a key for it was given")
    oms.check(bundle.folder, public)
    proof.proven.append(f"{layout.OMS_SIGNATURE} fits every file of the bundle")


def _named(payload: bytes) -> dict[str, str]:
    """SHA-256 of the statement's subjects by name."""
    try:
        document: Any = json.loads(payload)
        return {str(each["name"]): str(each["digest"]["sha256"]) for each in document["subject"]}
    except (ValueError, TypeError, KeyError):
        raise Broken(layout.STATEMENT, f"{layout.STATEMENT} is no readable in-toto statement") from None


def _read(bundle: Bundle, name: str) -> bytes:
    try:
        return bundle.path(name).read_bytes()
    except OSError:
        raise Broken(name, f"{name} is absent or unreadable, so nothing says what the bundle vouches for") from None
