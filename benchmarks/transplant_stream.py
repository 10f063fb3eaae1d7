"""What the claims about writing a transplant share: a 1 GB checkpoint, the operations on it, and their figures.

A Llama-shaped bfloat16 target and donor of random bytes, 1 % of the neurons of every matrix (rows and columns)
in the plan. Operations take turns, each in a process of its own and begun when everything before is on the disk and
there is memory to write into. A ratio is that of the medians over the faster half of the rounds: other processes on
the machine only ever add time. The write with sha256 is a study's: in its one pass it takes the digests of
target and checkpoint and of every neuron before and after, and writes both patches.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.claims import Claim
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.moved import NEURONS
from cnt_pipeline.transplants.patch import FORWARD
from cnt_pipeline.transplants.patching import revert
from cnt_pipeline.transplants.plan import PLAN_SCHEMA, TransplantPlan, read_plan
from cnt_pipeline.transplants.verify import verify_transplant

HIDDEN, FFN, KEYS, VOCABULARY = 2048, 5632, 256, 32000
LAYERS = 12
SHARE = 0.01
CLAIMS = {
    "without digests": ("writing a 1 GB transplant without digests, time over cp", 1.6, ("cp", "plain")),
    "with sha256": (
        "writing a 1 GB transplant with both patches and the sha256 of every file and neuron, time over cp",
        6.0,
        ("cp", "sha256"),
    ),
    "memory": (
        "writing, verifying and reverting a 1 GB transplant, peak memory growth in MB",
        200.0,
        ("plain", "sha256", "verify", "revert"),
    ),
}
"""By name: the claim in words, its limit, and the operations that it times."""
FAMILIES = {
    "self_attn.q_proj": (HIDDEN, HIDDEN, 0),
    "self_attn.k_proj": (KEYS, HIDDEN, 0),
    "self_attn.v_proj": (KEYS, HIDDEN, 0),
    "self_attn.o_proj": (HIDDEN, HIDDEN, 1),
    "mlp.gate_proj": (FFN, HIDDEN, 0),
    "mlp.up_proj": (FFN, HIDDEN, 0),
    "mlp.down_proj": (HIDDEN, FFN, 1),
}
"""Rows, columns and the axis of the neurons, as in TinyLlama, of whose layers about 1 GB is made."""


def write_checkpoint(folder: Path, seed: int) -> None:
    """A safetensors file of random weights (any bits but not those of infinities), block by block."""
    shapes: dict[str, list[int]] = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN]}
    for layer in range(LAYERS):
        for family, (rows, columns, _) in FAMILIES.items():
            shapes[f"model.layers.{layer}.{family}.weight"] = [rows, columns]
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = [HIDDEN]
    shapes |= {"model.norm.weight": [HIDDEN], "lm_head.weight": [VOCABULARY, HIDDEN]}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    generator = np.random.default_rng(seed)
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama"}\n')
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for begin in range(0, end, 32 << 20):
            count = min(32 << 20, end - begin) // 2
            values = generator.integers(0, 1 << 16, count, dtype=np.uint16)
            stream.write((values & 0xBFFF).tobytes())


def make_plan(share: float) -> TransplantPlan:
    """`share` of the neurons of every matrix, at random positions."""
    generator = np.random.default_rng(7)
    columns: dict[str, list[Any]] = {name: [] for name in PLAN_SCHEMA.names}
    for layer in range(LAYERS):
        for family, (rows, width, axis) in FAMILIES.items():
            size = (rows, width)[axis]
            for position in generator.choice(size, max(1, round(share * size)), replace=False).tolist():
                row = (f"model.layers.{layer}.{family}.weight", axis, position, layer, family, position)
                values = (*row, 0.0, len(columns["rank"]), 0.0, 1.0, None)
                for name, value in zip(PLAN_SCHEMA.names, values, strict=True):
                    columns[name].append(value)
    return TransplantPlan(pa.table(columns, PLAN_SCHEMA))


def status(field: str) -> float:
    """A memory figure of this process in MB, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def child(mode: str, folder: Path) -> dict[str, float]:
    """One operation in this process: seconds, processor seconds, peak memory above what was held before."""
    target, donor = read_index(folder / "target"), read_index(folder / "donor")
    plan, out, back = read_plan(folder / "plan.parquet"), folder / "out", folder / "back"
    size = target.path("model.safetensors").stat().st_size
    if mode == "verify":
        settle(size)
    else:
        settle(size, back if mode == "revert" else out)
    before, started, processor = status("VmRSS"), time.perf_counter(), time.process_time()
    if mode == "verify":
        result = verify_transplant(target, donor, plan, read_index(out))
        assert result.holds, result.offence
    elif mode == "revert":
        revert(out, None, back)
    else:
        digests = mode == "sha256"
        beside = {"forward": out / FORWARD.file, "neurons": out / NEURONS} if digests else {}
        write_transplant(target, donor, plan, out, digests=digests, **beside)
    return {
        "seconds": time.perf_counter() - started,
        "processor": time.process_time() - processor,
        "growth_mb": status("VmHWM") - before,
    }


def settle(size: int, *remove: Path) -> None:
    """Wait for the disk, remove what is to be written again, and touch as much memory as that will take.

    A virtual machine gives freed pages back to its host and pays several times over when it touches them again:
    without this the first operation after a pause would pay for the others.
    """
    os.sync()
    for path in remove:
        shutil.rmtree(path, ignore_errors=True)
    subprocess.run([sys.executable, "-S", "-c", f"bytearray(b'1') * {size * 3 // 2}"], check=True)


def faster_half(seconds: Sequence[float]) -> float:
    """The median over the faster half of the rounds."""
    return statistics.median(sorted(seconds)[: (len(seconds) + 1) // 2])


def measure(mode: str, folder: Path) -> dict[str, float]:
    """`child` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.transplant_stream", mode, str(folder)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def copy(folder: Path) -> dict[str, float]:
    """`cp` of the target's weights."""
    out = folder / "copied"
    settle((folder / "target/model.safetensors").stat().st_size, out)
    out.mkdir()
    started, processor = time.perf_counter(), os.times()
    subprocess.run(["cp", str(folder / "target/model.safetensors"), str(out)], check=True)
    now = os.times()
    spent = now.children_user + now.children_system - processor.children_user - processor.children_system
    return {"seconds": time.perf_counter() - started, "processor": spent}


def claim(name: str, rounds: int) -> Claim:
    """Measure one of `CLAIMS`: its operations take turns for `rounds` rounds, after one that does not count."""
    words, limit, modes = CLAIMS[name]
    with tempfile.TemporaryDirectory(prefix="transplant-bench-") as place:
        folder = Path(place)
        write_checkpoint(folder / "target", 1)
        write_checkpoint(folder / "donor", 2)
        plan = make_plan(SHARE)
        plan.write(folder / "plan.parquet")
        target, donor = read_index(folder / "target"), read_index(folder / "donor")
        first = write_transplant(target, donor, plan, folder / "out")
        rows: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
        for turn in range(rounds + 1):
            for mode in modes:
                figures = copy(folder) if mode == "cp" else measure(mode, folder)
                if turn:
                    rows[mode].append(figures)
        size = (folder / "target/model.safetensors").stat().st_size
    seconds = {mode: faster_half([one["seconds"] for one in part]) for mode, part in rows.items()}
    raw = {
        "file_gb": size / 1e9,
        "rounds": rounds,
        "parameters": first.parameters,
        "patched_mb": first.bytes_patched / 1e6,
        "seconds": seconds,
        "all": rows,
    }
    if name == "memory":
        ratio = max(one["growth_mb"] for part in rows.values() for one in part)
    else:
        ratio = seconds[modes[1]] / seconds["cp"]
    return Claim(words, ratio, limit, raw)


if __name__ == "__main__":
    print(json.dumps(child(sys.argv[1], Path(sys.argv[2]))))
