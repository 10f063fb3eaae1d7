"""Keys that sign a bundle: ed25519 for the statement, P-256 for the OpenSSF model-signing format."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cnt_pipeline.errors import InputError, StoreError
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

Kind = Literal["ed25519", "p256"]
PUBLIC_SUFFIX = ".pub"


def write_keys(path: Path, kind: Kind = "ed25519") -> tuple[Path, Path]:
    """Make a private key (PEM, PKCS #8, readable by its owner alone) and its public key beside it; both places.

    Raises:
        InputError: one of the two files exists.
        StoreError: they cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    public_path = path.with_name(path.name + PUBLIC_SUFFIX)
    taken = next((place for place in (path, public_path) if place.exists() or place.is_symlink()), None)
    if taken is not None:
        raise InputError(f"{taken} exists and is not overwritten, since what it signed could not be checked any more")
    private = ed25519.Ed25519PrivateKey.generate() if kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    secret = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    try:
        _write_new(path, secret, 0o600)
        _write_new(public_path, public, 0o644)
    except OSError as error:
        raise StoreError(
            f"{error.filename} cannot be written ({error.strerror}): name a place that you may write"
        ) from None
    return path, public_path


def _write_new(path: Path, data: bytes, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)


def read_private_key(path: Path) -> "Ed25519PrivateKey":
    """The ed25519 private key in a PEM file without a password.

    Raises:
        InputError: there is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} holds no private key without password ({error}): `cnt keygen` makes one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"{path} holds a private key that is not ed25519: `cnt keygen` makes one")
    return key


def read_public_key(path: Path) -> "Ed25519PublicKey":
    """The ed25519 public key in a PEM file.

    Raises:
        InputError: there is none.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm):
        raise InputError(f"{path} holds no public key: give the .pub file that `cnt keygen` wrote") from None
    if not isinstance(key, Ed25519PublicKey):
        raise InputError(f"{path} holds a public key that is not ed25519: give the .pub file that `cnt keygen` wrote")
    return key


def key_id(public: "Ed25519PublicKey") -> str:
    """What a signature names its key by: SHA-256 of the key's canonical JSON, as in-toto and TUF compute it."""
    return sha256_text(
        canonical_json(
            {"keytype": "ed25519", "keyval": {"public": public.public_bytes_raw().hex()}, "scheme": "ed25519"}
        )
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name a key file") from None
