"""What a row of the table of faults says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.hostile.conftest import Bench

CHECK, PLAN, RUN = (
    ("check", "{study}"),
    ("plan", "{study}", "--store", "{store}"),
    ("run", "{study}", "--store", "{store}"),
)
BEFORE = (CHECK, PLAN, RUN)
"""Known before any step is taken."""
HEADERS = (CHECK, RUN)
"""Known from headers and prompt files; a run meets it in its first steps."""
WORK = (RUN,)
"""Known only once the models compute."""


@dataclass(frozen=True)
class Fault:
    """`break_it` spoils the bench; each of `commands` then exits with `code` and says all of `words`."""

    name: str
    break_it: Callable[[Bench], Any]
    words: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = BEFORE
    code: int = 2
    step: str | None = None
    """The step of a run that meets it; None where no step may have been taken at all."""
    offline: bool = False
    """Asked in a process of its own that may not use the network, as the hub's client reads that at its start."""
