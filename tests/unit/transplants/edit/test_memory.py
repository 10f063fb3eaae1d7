"""No method loads a checkpoint to change a part of it: memory grows by little more than the largest tensor takes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.transplants.edit.edit_memory import CASES, HOARDER
from tests.unit.transplants.edit.layered import float32_bytes, write_models, write_probes

SPARE = 100 << 20
"""What may come on top of twice the largest tensor. The bar for real models is 200 MB; a smaller one lets a checkpoint
that is written in seconds exceed the bound."""

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, which only Linux has"
)


class Measured:
    """Growth in bytes by case (an error in words where it failed), the bound, and the size of one model in float32."""

    def __init__(self, growth: dict[str, int | str], largest: int, whole: int) -> None:
        self.growth = growth
        self.bound = 2 * largest + SPARE
        self.whole = whole


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    """Every case measured once."""
    root = tmp_path_factory.mktemp("layered")
    write_models(root)
    probes = {name: str(folder) for name, folder in write_probes(root).items()}
    (root / "probes.json").write_text(json.dumps(probes))
    child = [sys.executable, "-m", "tests.unit.transplants.edit.edit_memory", str(root)]
    # One thread everywhere: a fork takes none of its parent's along.
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    said = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True, env=alone).stdout
    sizes = float32_bytes(root)
    shutil.rmtree(root)
    return Measured(json.loads(said), *sizes)


@pytest.mark.parametrize("case", CASES)
def test_memory_grows_by_twice_the_largest_tensor_and_little_more(found: Measured, case: str) -> None:
    grown = found.growth[case]
    assert isinstance(grown, int), grown
    assert grown <= found.bound, f"{grown / 2**20:.0f} MB where {found.bound / 2**20:.0f} MB are allowed"


def test_the_bound_is_one_that_a_model_held_whole_would_break(found: Measured) -> None:
    assert found.whole > 1.2 * found.bound
    held = found.growth[HOARDER]
    assert isinstance(held, int) and held > found.bound
