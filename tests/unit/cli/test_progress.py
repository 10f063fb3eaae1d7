"""The live display of a run: a bar for the step in hand, with the time that is left at its pace."""

import io
import time

from rich.console import Console
from rich.progress import TimeRemainingColumn

from cnt_pipeline.commands.progress import RunDisplay
from cnt_pipeline.pipeline.step import Step


def test_a_training_shows_how_many_steps_are_left_and_for_how_long() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    step = Step("models/donor", "models.fine_tune", {})
    with RunDisplay(console, [step]) as display:
        display.started(step)
        display.progress(step, "the base answers the lessons' prompts", 8, 8)
        display.progress(step, "training the donor", 0, 100)
        for done in range(1, 5):
            time.sleep(0.02)
            display.progress(step, "training the donor", done, 100)
        assert display._bars is not None
        task = next(task for task in display._bars.tasks if task.description == "training the donor")
        assert (task.completed, task.total) == (4, 100)
        # 96 steps of at least a fiftieth of a second each.
        assert task.time_remaining is not None and task.time_remaining >= 2
        assert str(TimeRemainingColumn(compact=True).render(task)) != "--:--"


def test_the_estimate_outlives_a_step_of_a_minute() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    step = Step("models/donor", "models.fine_tune", {})
    with RunDisplay(console, [step]) as display:
        assert display._bars is not None
        display._bars.get_time = lambda: now
        display.started(step)
        for done in range(4):
            display.progress(step, "training the donor", done, 100)
            now += 60.0
        task = next(task for task in display._bars.tasks if task.description == "training the donor")
        assert task.time_remaining == 97 * 60
