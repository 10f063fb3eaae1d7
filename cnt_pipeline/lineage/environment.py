"""How the environment of a run differs from this one, graded by what it may do to results."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from cnt_pipeline.lineage.documents import EnvironmentDifference
from cnt_pipeline.store import Manifest

Grade = Literal["same", "patch", "minor", "major", "hardware", "unknown"]
"""The part of a version that differs; `hardware` for another processor, `unknown` where one side is not recorded.
From the least to the gravest but for `unknown`, which says nothing."""
_GRAVITY: tuple[Grade, ...] = ("same", "unknown", "patch", "minor", "major", "hardware")
_HARDWARE = ("processor", "machine")


def differences(manifests: Iterable[Manifest], now: Mapping[str, Any]) -> list[EnvironmentDifference]:
    """Every part that differs between the environments of `manifests` and `now`, the gravest first."""
    here = _flat(now)
    found: dict[tuple[str, str | None], EnvironmentDifference] = {}
    for manifest in manifests:
        then = _flat(manifest.environment)
        for name in then.keys() | here.keys():
            grade = _grade(name, then.get(name), here.get(name))
            if grade != "same":
                found[name, then.get(name)] = EnvironmentDifference(
                    name=name, then=then.get(name), now=here.get(name), grade=grade
                )
    return sorted(found.values(), key=lambda each: (-_GRAVITY.index(each.grade), each.name))


def gravest(found: Iterable[EnvironmentDifference]) -> Grade:
    """The gravest of the differences; same without any."""
    grades: list[Grade] = [each.grade for each in found]
    return max(grades, key=_GRAVITY.index, default="same")


def _flat(environment: Mapping[str, Any]) -> dict[str, str]:
    """Name and value of what can change results; the kernel's release and the number of processors cannot."""
    system = str(environment.get("system", "")).split()
    flat = {
        "cnt_pipeline": environment.get("cnt_pipeline"),
        "python": environment.get("python"),
        **environment.get("packages", {}),
        "machine": " ".join((system[0], system[-1])) if system else None,
        "processor": environment.get("processor"),
    }
    return {name: str(value) for name, value in flat.items() if value is not None}


def _grade(name: str, then: str | None, now: str | None) -> Grade:
    if then == now:
        return "same"
    if then is None or now is None:
        return "unknown"
    if name in _HARDWARE:
        return "hardware"
    parts = zip(_numbers(then), _numbers(now), ("major", "minor"), strict=False)
    grades: dict[str, Grade] = {"major": "major", "minor": "minor"}
    return next((grades[part] for before, after, part in parts if before != after), "patch")


def _numbers(version: str) -> list[str]:
    """The parts of a version, without what follows a plus sign (where a package was built)."""
    return version.split("+")[0].split(".")
