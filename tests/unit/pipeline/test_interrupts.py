"""Ctrl-C ends a step where it reports, is never lost, and comes soon even where nothing reports."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from cnt_pipeline.pipeline.interrupts import held_back


class Ended(BaseException):
    """What the handler in force before raises, as Dagster's does."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGINT, end)
    alarm, timed = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)[0] > 0
    yield
    signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGALRM) is alarm
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == timed


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class Interrupting:
    """Interrupts while it is destroyed."""

    def __del__(self) -> None:
        interrupt()
        time.sleep(0.01)


def test_an_interrupt_waits_for_the_next_report() -> None:
    done = []
    with pytest.raises(Ended), held_back() as look:
        look()
        interrupt()
        done.append("went on")
        look()
        done.append("never")
    assert done == ["went on"]


def test_an_interrupt_inside_a_destructor_is_not_lost() -> None:
    with pytest.raises(Ended), held_back() as look:
        made = Interrupting()
        del made
        look()
        pytest.fail("the interrupt was dropped")


def test_an_interrupt_ends_the_step_at_its_end_at_the_latest() -> None:
    done = []
    with pytest.raises(Ended), held_back():
        interrupt()
        done.append("to the end")
    assert done == ["to the end"]


def test_a_step_that_does_not_report_is_interrupted_after_the_grace() -> None:
    with pytest.raises(Ended), held_back(grace=0.05):
        interrupt()
        while True:
            time.sleep(0.001)


def test_a_second_interrupt_is_let_through_at_once() -> None:
    done = []
    with pytest.raises(Ended), held_back(grace=60):
        interrupt()
        done.append("once")
        interrupt()
        done.append("twice")
    assert done == ["once"]


def test_an_error_of_the_step_is_what_it_ends_with() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ValueError, match="its own"), held_back():
        interrupt()
        raise ValueError("its own")
    assert signal.getsignal(signal.SIGINT) is before


def test_another_thread_takes_its_steps_as_before() -> None:
    seen = []

    def step() -> None:
        with held_back() as look:
            look()
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
    assert seen == [before]


def test_without_another_handler_python_ends_with_a_keyboard_interrupt() -> None:
    script = (
        "import os, signal\n"
        "from cnt_pipeline.pipeline.interrupts import held_back\n"
        "try:\n"
        "    with held_back() as look:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        print('held', flush=True)\n"
        "        look()\n"
        "except KeyboardInterrupt:\n"
        "    print('ended')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["held", "ended"]
