"""Names for work by what it depends on: the same dependencies give the same fingerprint on every machine."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical_json(value: Any) -> str:
    """`value` as JSON with sorted keys, no spaces and no NaN, so that equal values have equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_text(text: str) -> str:
    """SHA-256 of `text` in UTF-8, as 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def fingerprint(stage: str, version: int, slice: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Fingerprint of one step, 64 hex digits.

    `slice` holds the settings that change the step's numbers and nothing else (no paths, no device, no batch size);
    `inputs` maps each input's name to its content digest.
    """
    return sha256_text(
        canonical_json({"stage": stage, "version": version, "slice": dict(slice), "inputs": dict(inputs)})
    )
