"""Signatures in the OpenSSF model-signing format, through the package `model-signing` (extra `signing`).

The package signs with elliptic-curve keys (P-256, P-384, P-521) and not with ed25519, so the key is one of its own:
`cnt keygen --kind p256`.
"""

from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.layout import OMS_SIGNATURE
from cnt_pipeline.lineage.record import Broken


def sign(folder: Path, key: Path) -> None:
    """Sign every file of `folder` and write the signature among them.

    Raises:
        InputError: the package is not installed, or the key is none that it takes.
    """
    signing = _package("signing")
    if not key.is_file():
        raise InputError(f"{key} does not exist: `cnt keygen --kind p256 {key}` makes a key for --oms-key")
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, AttributeError, OSError):
        raise InputError(
            f"{key} holds no elliptic-curve private key, the only kind that model-signing takes: "
            "`cnt keygen --kind p256` makes one"
        ) from None
    signer.set_hashing_config(_hashing(folder)).sign(folder, folder / OMS_SIGNATURE)


def check(folder: Path, public: Path) -> None:
    """Check the signature of a folder.

    Raises:
        Broken: a file differs from what was signed, or another key signed.
        InputError: the package is not installed, or the key cannot be used.
    """
    verifying = _package("verifying")
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public)
    except (ValueError, TypeError, AttributeError, OSError):
        raise InputError(
            f"{public} holds no elliptic-curve public key: give the .pub file of the signing key"
        ) from None
    try:
        verifier.set_hashing_config(_hashing(folder)).verify(folder, folder / OMS_SIGNATURE)
    except Exception as error:  # noqa: BLE001 (the package raises what its parts raise; each means that it refuses)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Broken(
            OMS_SIGNATURE,
            f"model-signing refuses {OMS_SIGNATURE} ({reason}): the folder is not the one that this key signed",
        ) from None


def _hashing(folder: Path) -> Any:
    return _package("hashing").Config().set_ignored_paths(paths=[folder / OMS_SIGNATURE], ignore_git_paths=False)


def _package(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"model_signing.{module}")
    except ImportError as error:
        raise InputError(
            f"model-signing cannot be imported ({error}): run pip install 'cnt_pipeline[signing]'"
        ) from None
