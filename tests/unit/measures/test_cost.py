"""Cost: what was held for a moment counts, what was held before does not."""

import pytest

from cnt_pipeline.measures.cost import _CLEAR, measured

MB = 1 << 20


@pytest.mark.skipif(not _CLEAR.exists(), reason="the system counts no peak of resident memory")
def test_a_block_that_is_freed_again_counts_and_an_earlier_one_does_not() -> None:
    before = b"\1" * (90 * MB)
    with measured() as cost:
        held = b"\1" * (40 * MB)
        del held
    assert cost.peak_memory is not None
    assert 35 * MB < cost.peak_memory < 80 * MB
    assert before[0] == 1


def test_time_runs_while_the_block_does() -> None:
    with measured() as cost:
        assert cost.seconds == 0
        sum(range(100_000))
    assert cost.seconds > 0
