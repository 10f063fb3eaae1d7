"""A run as it is watched: live bars on a terminal, a line per finished step elsewhere. Always on standard error."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cnt_pipeline.commands.console import STYLES
from cnt_pipeline.pipeline.run import Taken
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.quantities import seconds_text

_REMEMBERED_SECONDS = 600.0
"""The time left follows from the pace of the last so many seconds: a slow step of a training takes a minute."""


class RunDisplay:
    """A `cnt_pipeline.pipeline.chain.Watcher` of `steps` that remembers what was taken."""

    def __init__(self, console: Console, steps: Sequence[Step]) -> None:
        self.taken: list[Taken] = []
        self._console = console
        self._steps = len(steps)
        self._width = max((len(step.key) for step in steps), default=0)
        self._bars: Progress | None = None
        self._whole: TaskID | None = None
        self._part: TaskID | None = None
        self._what = ""

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bars = Progress(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=12),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(compact=True),
                console=self._console,
                transient=True,
                speed_estimate_period=_REMEMBERED_SECONDS,
            )
            self._whole = self._bars.add_task("steps", total=self._steps)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def started(self, step: Step) -> None:
        if self._bars is not None:
            self._what = ""
            self._part = self._bars.add_task(step.key, total=None)

    def progress(self, step: Step, what: str, done: int, total: int) -> None:
        if self._bars is None or self._part is None:
            return
        if what != self._what:
            self._what = what
            self._bars.reset(self._part, total=total or None, description=what)
        self._bars.update(self._part, completed=done, total=total or None)

    def finished(self, taken: Taken) -> None:
        self.taken.append(taken)
        self._close_part()
        state = "hit" if taken.built.hit else "built"
        line = Text.assemble(
            (f"{state:<5}", STYLES[state]),
            f"  {taken.step.key:<{self._width}} {seconds_text(taken.built.seconds):>10}",
            ("" if taken.built.hit else f"  {taken.why}", "dim"),
        )
        self._console.print(line, overflow="ellipsis", no_wrap=True)
        if self._bars is not None and self._whole is not None:
            self._bars.advance(self._whole)

    def failed(self, step: Step, error: BaseException) -> None:
        self._close_part()

    def _close_part(self) -> None:
        if self._bars is not None and self._part is not None:
            self._bars.remove_task(self._part)
            self._part = None
