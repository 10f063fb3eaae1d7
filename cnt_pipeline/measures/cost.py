"""What a piece of work costs: wall time, and peak memory as the kernel counts it."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass
class Cost:
    """Wall time in seconds, and how far resident memory rose above where it stood at the start, in bytes; None where
    the system cannot say."""

    seconds: float = 0.0
    peak_memory: int | None = None


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block; its memory on Linux alone."""
    cost = Cost()
    counts = _CLEAR.exists()
    if counts:
        _CLEAR.write_text(_RESET_PEAK)
    before = _bytes("VmRSS") if counts else 0
    began = time.perf_counter()
    yield cost
    cost.seconds = time.perf_counter() - began
    if counts:
        cost.peak_memory = max(_bytes("VmHWM") - before, 0)


def _bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
