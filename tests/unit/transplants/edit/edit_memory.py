"""How far memory grows while a method makes a checkpoint: `python -m tests.unit.transplants.edit.edit_memory FOLDER`.

FOLDER holds what `layered` writes. Each case runs in a process of its own, forked from one that has imported all code
and computed nothing, and is measured as the leaderboard measures its entries. Prints growth in bytes (or the error) by
case, as JSON.
"""

import json
import multiprocessing
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import scipy.optimize  # noqa: F401 (methods import it when they run: its code is no part of what they hold)
import torch

from cnt_pipeline.measures.cost import measured
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.prompt_rows import read_statistics
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.safety_layers import read_gaps
from cnt_pipeline.transplants.edit.source import Edits, Source
from cnt_pipeline.transplants.edit.table import EDITS
from cnt_pipeline.transplants.edit.write import verify_unchanged, write_edited

HOARDER = "a method that holds all weights"
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "task_arithmetic, all tensors": ("task_arithmetic", {"tensors": "all", "density": 0.5, "rescale": "l1"}),
    "ties, all tensors": ("ties", {"tensors": "all"}),
    "dare, all tensors": ("dare", {"tensors": "all", "majority_sign_method": "count"}),
    "set_difference, snip": ("set_difference", {"score": "snip"}),
    "act_svd, orthogonal": ("act_svd", {"directions": "orthogonal"}),
    "fgsn, full": ("fgsn", {"form": "full", "pool": "layers"}),
}
"""Cases beside every row with its defaults: choices that read more."""
CHANGED: dict[str, dict[str, Any]] = {"nlsr": {"rank": 16}, "safe_lora": {"tau": 1.0}}
"""Rows whose defaults take long, or choose no matrix of these models."""
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, CHANGED.get(name, {})) for name in EDITS} | OPTIONS


def method_of(row: EditRow) -> Callable[[Source, Any, int], Edits]:
    """The function that a row names."""
    module, name = row.function.split(":")
    found: Callable[[Source, Any, int], Edits] = getattr(import_module(f"cnt_pipeline.transplants.edit.{module}"), name)
    return found


def hoarder(source: Source, options: Any, seed: int) -> Edits:
    """What no method may do."""
    held = {name: source.tensor("target", name) for name in source.floats}
    return {name: lambda name=name: held[name] * 2 for name in held}  # type: ignore[misc]


def growth(root: Path, probes: dict[str, str], case: str) -> int:
    """Bytes by which memory grew from before the models were opened to the checkpoint's proof."""
    _load_libraries(probes)
    if case == HOARDER:
        edit, options, needs, read = hoarder, None, (), ()
    else:
        name, changes = CASES[case]
        row = EDITS[name]
        options = row.options.model_validate(changes)
        edit, needs, read = method_of(row), row.needs, row.reads(options)
    with tempfile.TemporaryDirectory(dir=root) as folder, measured() as cost:
        models = {role: read_index(root / role) for role in ("target", "donor", *needs)}
        source = Source(read_architecture(root / "target"), models, {probe: Path(probes[probe]) for probe in read})
        edits = edit(source, options, 0)
        written = write_edited(models["target"], edits, Path(folder) / "model")
        assert verify_unchanged(models["target"], read_index(written.folder), edits).holds
    assert written.parameters, f"{case} changed nothing"
    assert cost.peak_memory is not None
    return cost.peak_memory


def _load_libraries(probes: dict[str, str]) -> None:
    """Run once what loads code or takes working space on its first use, which is no part of what a method holds."""
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        wide = torch.ones(1536, 1536, dtype=dtype)
        wide @ wide
    some = torch.eye(9, dtype=torch.float64)
    torch.linalg.eigh(some @ some), torch.linalg.svd(some), torch.linalg.qr(some)
    read_gaps(Path(probes["hidden_state/donor"]))
    read_statistics(Path(probes["hidden_state/donor"]), ["hidden"], ["function"])


def main(root: Path) -> None:
    probes = json.loads((root / "probes.json").read_text())
    found: dict[str, int | str] = {}
    for row in EDITS.values():
        method_of(row)
    for case in (*CASES, HOARDER):
        with multiprocessing.get_context("fork").Pool(1) as pool:
            try:
                found[case] = pool.apply(growth, (root, probes, case))
            except Exception as error:  # noqa: BLE001 (a case that fails is reported as its own)
                found[case] = repr(error)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
