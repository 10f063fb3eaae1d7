"""Claim: the activation probe costs at most 1.15 times the bare forward pass.

A random Llama of 134 million parameters, float32 on one thread, batches of 8 x 64 and 32 x 48 tokens whose second half
is the answer; mean and root mean square of every neuron over the answer. The bare pass is the model's body without
language-model head and cache; both run in turn, in one process. The median over rounds of the dearer batch; processor
time. `python -m benchmarks.activation_probe [--json]`
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.claims import Claim, main
from benchmarks.llama import BATCHES, cpu_seconds, make_examples, make_model, peak_mb
from cnt_pipeline.activation_caches.probes.state import ActivationProbe
from cnt_pipeline.models import teacher
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.load import load_model

LIMIT = 1.15


def run(rounds: int) -> Claim:
    """Measure the claim."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="activation-bench-") as name:
        folder = Path(name)
        make_model(folder, 1)
        model, architecture = load_model(folder), read_architecture(folder)
        medians: dict[str, float] = {}
        seconds: dict[str, list[tuple[float, float]]] = {}
        peaks: dict[str, float] = {"loaded": peak_mb()}
        for label, (count, tokens) in BATCHES.items():
            examples = make_examples(count, tokens)
            batch = teacher.make_batch(examples, range(count), torch.device("cpu"), 0)
            probe = ActivationProbe(model, architecture, examples, "response", count)
            _forward(model, batch)
            peaks[f"{label} bare"] = peak_mb()
            probe(range(count))
            peaks[f"{label} probe"] = peak_mb()
            seconds[label] = [
                (cpu_seconds(_forward, model, batch), cpu_seconds(probe, range(count))) for _ in range(rounds)
            ]
            medians[label] = statistics.median(probed / bare for bare, probed in seconds[label])
    raw = {"ratios": medians, "seconds_bare_and_probe": seconds, "peak_mb": peaks}
    print(f"peak memory in MB: {', '.join(f'{k} {v:.0f}' for k, v in peaks.items())}", file=sys.stderr)
    return Claim("activation probe, time over that of the bare forward pass", max(medians.values()), LIMIT, raw)


@torch.inference_mode()
def _forward(model: torch.nn.Module, batch: teacher.Batch) -> None:
    model.base_model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)  # type: ignore[operator]


if __name__ == "__main__":
    sys.exit(main(run, rounds=7))
