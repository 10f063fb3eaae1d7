"""A model of 1.1 billion parameters is probed within 12 GB of main memory, whatever its donor adds."""

from pathlib import Path

import pytest

from benchmarks.probe_memory import LIMIT_GB, measured, write_pair


@pytest.mark.timeout(1200)  # writing two such models takes a busy machine minutes
def test_path_effects_of_a_billion_parameters_take_little_more_memory_than_the_target(tmp_path: Path) -> None:
    parameters = write_pair(tmp_path)
    figures = measured(tmp_path)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    assert parameters > 1.05e9
    assert figures["neurons"] == 22 * (2 * 2048 + 2 * 256 + 3 * 5632)
    assert figures["largest_effect"] > 0
    assert figures["peak_gb"] <= LIMIT_GB
    target_gb = 2 * parameters / 1e9
    assert figures["peak_gb"] < 1.7 * target_gb, "the donor or the activations are held"
