"""DSSE: a signed statement (protocol and envelope of github.com/secure-systems-lab/dsse, version 1.0.2)."""

import base64
import json
from typing import TYPE_CHECKING

from cnt_pipeline.lineage.keys import key_id
from cnt_pipeline.lineage.layout import ENVELOPE, STATEMENT
from cnt_pipeline.lineage.record import Broken, dumps

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def sign(payload: bytes, key: "Ed25519PrivateKey") -> str:
    """The envelope's JSON."""
    return _written(payload, key_id(key.public_key()), key.sign(_to_sign(payload)))


def signer_of(text: bytes, payload: bytes) -> str:
    """The key that the envelope says it was signed with, once it is known to hold `payload` and nothing else.

    Raises:
        Broken: it is no such envelope.
    """
    held, key, _ = _read(text)
    if held != payload:
        raise Broken(ENVELOPE, f"{ENVELOPE} signs another statement than {STATEMENT}, which therefore is not signed")
    return key


def check_signature(text: bytes, public: "Ed25519PublicKey") -> None:
    """Check the envelope's signature.

    Raises:
        Broken: it is no envelope, or its signature was not made with this key over this payload.
    """
    from cryptography.exceptions import InvalidSignature

    payload, named, signature = _read(text)
    try:
        public.verify(signature, _to_sign(payload))
    except InvalidSignature:
        if named != key_id(public):
            raise Broken(
                ENVELOPE,
                f"{ENVELOPE} was signed with the key {named[:12]}, not with {key_id(public)[:12]}, which you trust: "
                "someone else vouches for this bundle",
                key_id(public),
                named,
            ) from None
        raise Broken(
            ENVELOPE,
            f"the signature in {ENVELOPE} does not fit its statement: one of them was changed after signing",
        ) from None


def _to_sign(payload: bytes) -> bytes:
    """Pre-authentication encoding: type and payload with their lengths."""
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _written(payload: bytes, key: str, signature: bytes) -> str:
    return dumps(
        {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": key, "sig": base64.b64encode(signature).decode()}],
        }
    )


def _read(text: bytes) -> tuple[bytes, str, bytes]:
    """Payload, key id and signature of an envelope that is written exactly as `sign` writes it."""
    try:
        document = json.loads(text)
        (entry,) = document["signatures"]
        parts = base64.b64decode(document["payload"]), str(entry["keyid"]), base64.b64decode(entry["sig"])
    except (ValueError, TypeError, KeyError):
        raise Broken(ENVELOPE, f"{ENVELOPE} is no readable DSSE envelope with one signature") from None
    if _written(*parts).encode() != text:
        raise Broken(ENVELOPE, f"{ENVELOPE} is not as `cnt bundle` wrote it: it was changed after signing")
    return parts
