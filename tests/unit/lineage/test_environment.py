"""Differences of environments are graded by what they may do to results."""

from dataclasses import replace
from typing import Any

import pytest

from cnt_pipeline.lineage.environment import differences, gravest
from cnt_pipeline.store import Manifest

HERE: dict[str, Any] = {
    "cnt_pipeline": "0.1.0",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0+cpu", "numpy": "2.4.6"},
    "system": "Linux 6.18.44 x86_64",
    "processors": 2,
    "processor": "One",
}
STEP = Manifest("a/b", "a", 1, "0" * 64, {}, {}, {}, "0" * 64, HERE, "2026-01-01T00:00:00+00:00", 1.0, {})


def then(**changed: Any) -> Manifest:
    return replace(STEP, environment={**HERE, **changed})


@pytest.mark.parametrize(
    ("changed", "grade"),
    [
        ({}, "same"),
        ({"system": "Linux 5.4.0 x86_64", "processors": 64}, "same"),
        ({"packages": {"torch": "2.13.0+cu129", "numpy": "2.4.6"}}, "patch"),
        ({"packages": {"torch": "2.13.1", "numpy": "2.4.6"}}, "patch"),
        ({"packages": {"torch": "2.12.0", "numpy": "2.4.6"}}, "minor"),
        ({"python": "3.12.7"}, "minor"),
        ({"packages": {"torch": "2.12.0", "numpy": "1.26.0"}}, "major"),
        ({"processor": "Two", "packages": {"torch": "1.0.0", "numpy": "2.4.6"}}, "hardware"),
        ({"system": "Linux 6.18.44 aarch64"}, "hardware"),
        ({"packages": {"torch": "2.13.0+cpu", "numpy": "2.4.6", "duckdb": "2.0.0"}}, "unknown"),
    ],
)
def test_the_gravest_difference_counts(changed: dict[str, Any], grade: str) -> None:
    assert gravest(differences([STEP, then(**changed)], HERE)) == grade


def test_what_was_not_recorded_is_said() -> None:
    older = {key: value for key, value in HERE.items() if key != "processor"}
    (found,) = differences([replace(STEP, environment=older)], HERE)
    assert (found.name, found.then, found.now, found.grade) == ("processor", None, "One", "unknown")
