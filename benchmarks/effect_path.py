"""Claim: a node of the path effects costs at most 1.3 times a forward and backward pass for input gradients only.

A random Llama of 134 million parameters, float32 on one thread, batches of 8 x 64 and 32 x 48 tokens whose second half
is the answer. Both passes run on the same frozen model with the same loss, in turn, in one process; a node includes
mixing its weights, as if it had one batch. The median over rounds of the dearer batch; processor time.
`python -m benchmarks.effect_path [--json]`
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.claims import Claim, main
from benchmarks.llama import BATCHES, cpu_seconds, make_examples, make_model, peak_mb
from cnt_pipeline.activation_caches.probes.effect import batch_gradients
from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.tensors import read_index

LIMIT = 1.3


def run(rounds: int) -> Claim:
    """Measure the claim."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="effect-bench-") as name:
        folder = Path(name)
        make_model(folder / "target", 1)
        make_model(folder / "donor", 2)
        model = load_model(folder / "target")
        swap = GatedSwap(
            model, read_architecture(folder / "target"), read_index(folder / "donor"), read_index(folder / "target")
        )
        ratios: dict[str, list[float]] = {}
        seconds: dict[str, list[tuple[float, float]]] = {}
        peaks: dict[str, float] = {"loaded": peak_mb()}
        for label, (count, tokens) in BATCHES.items():
            examples = make_examples(count, tokens)
            batch = teacher.make_batch(examples, range(count), torch.device("cpu"), 0)
            _input_gradients(model, batch)
            peaks.setdefault("input gradients", peak_mb())
            batch_gradients(swap, batch, torch.ones(count), 0.4)
            peaks[label] = peak_mb()
            for _ in range(rounds):
                plain = cpu_seconds(_input_gradients, model, batch)
                node = cpu_seconds(batch_gradients, swap, batch, torch.ones(count), 0.4)
                ratios.setdefault(label, []).append(node / plain)
                seconds.setdefault(label, []).append((plain, node))
    medians = {label: statistics.median(values) for label, values in ratios.items()}
    raw = {"ratios": medians, "seconds_plain_and_node": seconds, "peak_mb": peaks}
    print(f"peak memory in MB: {', '.join(f'{k} {v:.0f}' for k, v in peaks.items())}", file=sys.stderr)
    claim = "path effects, time of a node over a forward and backward pass for input gradients only"
    return Claim(claim, max(medians.values()), LIMIT, raw)


def _input_gradients(model: torch.nn.Module, batch: teacher.Batch) -> None:
    with torch.enable_grad(), teacher.differentiable_inputs(model):
        teacher.per_example(teacher.token_nll(model, batch), batch).sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    sys.exit(main(run, rounds=5))
