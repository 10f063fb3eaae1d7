"""How far memory grows while a method makes a checkpoint.

`python -m tests.unit.transplants.edit.edit_memory FOLDER TABLE CASE ...`: FOLDER holds what `layered` writes, the
cases are of a table in `TABLES`. Each runs in a process of its own, forked from one that has imported all code and
computed nothing, and is measured as the leaderboard measures its entries. Prints growth in bytes (or the error) by
case, as JSON.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
import scipy.optimize  # methods import it when they run: its code is no part of what they hold
import torch
from torch import Tensor

from cnt_pipeline.measures.cost import measured
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.prompt_rows import read_statistics
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.safety_layers import read_gaps
from cnt_pipeline.transplants.edit.source import Edits, Linear, Source
from cnt_pipeline.transplants.edit.table import EDITS
from cnt_pipeline.transplants.edit.write import verify_unchanged, write_edited

Case = tuple[str, dict[str, Any]]
"""A row's name and options."""
HOARDER = "a method that holds all weights"
DENSE = "a method that decomposes a whole matrix in float64"
OPTIONS: dict[str, Case] = {
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
CASES: dict[str, Case] = {name: (name, CHANGED.get(name, {})) for name in EDITS} | OPTIONS
ONE = {"layers": [0]}
"""The safety layers of a model that has a single layer."""
WIDE_CASES: dict[str, Case] = {name: (name, CHANGED.get(name, {})) for name in EDITS if not name.startswith("fgsn")} | {
    "nlsr": ("nlsr", {"keep_low": 0.0, "keep_high": 0.0}),
    "fgsn": ("fgsn", ONE),
    "fgsn_zero": ("fgsn_zero", ONE),
    "fgsn, full": ("fgsn", {"form": "full", **ONE}),
    "fgsn, rank 32": ("fgsn", {"rank": 32, **ONE}),
    "fgsn, projector": ("fgsn", {"scale": "projector", **ONE}),
    "safe_lora, rank 32": ("safe_lora", {"tau": 1.0, "rank": 32}),
    "safe_lora, orthogonal": ("safe_lora", {"tau": 1.0, "projector": "orthogonal"}),
    "act_svd, orthogonal": ("act_svd", {"directions": "orthogonal"}),
    "set_difference, snip": ("set_difference", {"score": "snip"}),
    "antidote, whole matrix": ("antidote", {"group": "matrix"}),
    "safe_patching, drawn": ("safe_patching", {"retain": 0.5, "group": "row"}),
    "task_arithmetic, l1": ("task_arithmetic", {"density": 0.5, "rescale": "l1"}),
}
"""Cases of a model of one layer, whose matrices are its largest tensors: every row, and choices that hold more."""
ALONE = {
    # One thread everywhere: a fork takes none of its parent's along.
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
    # Freed memory goes back at once. What allocators keep in reserve is 100 MB one time and 200 the next; it would be
    # counted as a method's own where it came, and hide what a method holds where it was there before.
    "MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072",
    "ARROW_DEFAULT_MEMORY_POOL": "system", "_RJEM_MALLOC_CONF": "dirty_decay_ms:0,muzzy_decay_ms:0",
}  # fmt: skip
"""Settings of the process that measures."""
TABLES = {"layered": (CASES, HOARDER), "wide": (WIDE_CASES, DENSE)}
"""By name: cases, and the control that no method may be like."""


def method_of(row: EditRow) -> Callable[[Source, Any, int], Edits]:
    """The function that a row names."""
    module, name = row.function.split(":")
    found: Callable[[Source, Any, int], Edits] = getattr(import_module(f"cnt_pipeline.transplants.edit.{module}"), name)
    return found


def hoarder(source: Source, options: Any, seed: int) -> Edits:
    """What no method may do."""
    held = {name: source.tensor("target", name) for name in source.floats}
    return {name: lambda name=name: held[name] * 2 for name in held}  # type: ignore[misc]


def dense(source: Source, options: Any, seed: int) -> Edits:
    """What no method may do either: the leading part of a difference, all of it converted at once."""

    def edit(linear: Linear) -> Tensor:
        matrix = source.weight("donor", linear) - source.weight("target", linear)
        wide = (matrix.T if matrix.shape[0] > matrix.shape[1] else matrix).double()
        kept = torch.linalg.eigh(wide @ wide.T)[1][:, -6:]
        part = kept @ (kept.T @ wide)
        part = part.T if matrix.shape[0] > matrix.shape[1] else part
        return source.stored(linear, source.weight("target", linear) + part.float())

    return {linear.tensor: partial(edit, linear) for linear in source.linears if "down" in linear.families}


def growth(root: Path, probes: dict[str, str], table: str, case: str) -> int:
    """Bytes by which memory grew from before the models were opened to the checkpoint's proof."""
    _load_libraries(probes)
    cases, _ = TABLES[table]
    if case in CONTROLS:
        edit, options, needs, read = CONTROLS[case], None, (), ()
    else:
        name, changes = cases[case]
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


CONTROLS = {HOARDER: hoarder, DENSE: dense}


def _load_libraries(probes: dict[str, str]) -> None:
    """Run once what loads code or takes working space on its first use, which is no part of what a method holds."""
    torch.set_num_threads(1)
    for dtype in (torch.float32, torch.float64):
        wide = torch.ones(1536, 1536, dtype=dtype)
        wide @ wide
    some = torch.eye(9, dtype=torch.float64)
    torch.linalg.eigh(some @ some), torch.linalg.svd(some), torch.linalg.qr(some)
    scipy.linalg.eigh(np.eye(900))
    read_gaps(Path(probes["hidden_state/donor"]))
    read_statistics(Path(probes["hidden_state/donor"]), ["hidden"], ["function"])


def measure(root: Path, table: str, *chosen: str) -> dict[str, int | str]:
    """Growth in bytes (or the error) by case, of a whole table where none is named, from two processes at a time."""
    cases, control = TABLES[table]
    names = chosen or (*cases, control)
    with ThreadPoolExecutor() as pool:
        found = pool.map(partial(_measure, root, table), [half for half in (names[::2], names[1::2]) if half])
        return {case: grown for half in found for case, grown in half.items()}


def _measure(root: Path, table: str, cases: Sequence[str]) -> dict[str, int | str]:
    """Cases one after the other, from a process of its own."""
    command = [sys.executable, "-m", "tests.unit.transplants.edit.edit_memory", str(root), table, *cases]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **ALONE}).stdout
    found: dict[str, int | str] = json.loads(said)
    return found


def main(root: Path, table: str, cases: Sequence[str]) -> None:
    probes = json.loads((root / "probes.json").read_text())
    for row in EDITS.values():
        method_of(row)
    forked, found = multiprocessing.get_context("fork"), {}
    for case in cases:
        receiver, sender = forked.Pipe(duplex=False)
        child = forked.Process(target=_report, args=(sender, root, probes, table, case))
        child.start()
        sender.close()
        found[case] = receiver.recv()
        child.join()
    print(json.dumps(found))


def _report(sender: Connection, *about: Any) -> None:
    """A case that fails is reported as its own: the error in words."""
    try:
        sender.send(growth(*about))
    except Exception as error:  # noqa: BLE001
        sender.send(repr(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
