"""What a step asks the store for, and in words how two askings differ."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cnt_pipeline.store.manifest import Manifest
from cnt_pipeline.study.fingerprint import canonical_json, fingerprint

_LONGEST_VALUE = 60
_MOST_DIFFERENCES = 4


@dataclass(frozen=True)
class BuildRequest:
    """One step of a study.

    `slice` holds the settings that its result depends on, `inputs` the content digest of each input by name.
    `resumable` says that the builder can go on from the files that a killed build left.
    """

    key: str
    stage: str
    version: int
    slice: Mapping[str, Any]
    inputs: Mapping[str, str]
    study: str
    resumable: bool = field(default=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """Name of the artifact that answers this request, 64 hex digits."""
        return fingerprint(self.stage, self.version, self.slice, self.inputs)

    @property
    def plain_slice(self) -> dict[str, Any]:
        """The slice as it reads back from JSON."""
        plain: dict[str, Any] = json.loads(canonical_json(dict(self.slice)))
        return plain


def differences(request: BuildRequest, head: Manifest) -> str:
    """How `request` differs from what `head` was built for, e.g. `method.eta changed from [1] to [1, 2]`."""
    found: list[str] = []
    if request.version != head.stage_version:
        found.append(f"stage version {head.stage_version} -> {request.version}")
    found += _changes(head.slice, request.plain_slice, "")
    for name in sorted({*head.inputs, *request.inputs}):
        before, now = head.inputs.get(name), request.inputs.get(name)
        if before != now:
            change = "added" if before is None else "removed" if now is None else "changed"
            found.append(f"input {name} {change}")
    if not found:
        return "the rule of fingerprints changed"
    more = len(found) - _MOST_DIFFERENCES
    return "; ".join(found[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _changes(before: Any, now: Any, name: str) -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            inner = f"{name}.{key}" if name else str(key)
            if key not in before:
                yield f"{inner} added ({_shown(now[key])})"
            elif key not in now:
                yield f"{inner} removed"
            else:
                yield from _changes(before[key], now[key], inner)
    elif _pairs(before, now):
        for position, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _changes(old, new, f"{name}[{position}]")
    elif canonical_json(before) != canonical_json(now):
        yield f"{name} changed from {_shown(before)} to {_shown(now)}"


def _pairs(before: Any, now: Any) -> bool:
    """Lists of records are compared record by record, lists of plain values as a whole."""
    lists = isinstance(before, list) and isinstance(now, list) and len(before) == len(now)
    return lists and all(isinstance(item, dict) for item in (*before, *now))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."
