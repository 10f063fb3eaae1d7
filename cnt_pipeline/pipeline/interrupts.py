"""Ctrl-C while a step computes: it ends the step where it reports progress, not wherever the signal strikes."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

GRACE = 3.0
"""Seconds a step has to come to its next report before it is interrupted wherever it is."""


@contextmanager
def held_back(grace: float = GRACE) -> Iterator[Callable[[], None]]:
    """Hold an interrupt back until the function that is yielded is called, the context ends, or `grace` is over.

    A handler that raises at once may strike inside a destructor, where Python drops the exception and the work goes on,
    or inside a callback of C++ code, where it aborts the process. A second interrupt is let through at once, and so is
    every one outside of the main thread, where none arrives. What is raised is up to the handler in force before.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: None
        return
    pending = False
    alarm, running = signal.getsignal(signal.SIGALRM), (0.0, 0.0)

    def let_through(number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        before(signal.SIGINT, frame)

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pending, running
        if pending:
            let_through(number, frame)
        pending = True
        signal.signal(signal.SIGALRM, let_through)
        running = signal.setitimer(signal.ITIMER_REAL, grace, grace)  # again and again: the first may be dropped

    def look() -> None:
        if pending:
            let_through()

    def give_back() -> None:
        signal.signal(signal.SIGINT, before)
        if pending:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
            signal.setitimer(signal.ITIMER_REAL, *running)

    signal.signal(signal.SIGINT, note)
    try:
        yield look
    except BaseException:
        give_back()
        raise
    give_back()
    look()
