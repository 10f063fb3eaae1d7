"""Claim: writing an activation cache costs at most 12 % of capturing it.

A Llama of 14 million parameters with random weights, float32 on one thread, path effects at 4 nodes of one
answer per prompt: the cheapest path effects that a study asks for, so the hardest case for this claim. Everything
that `capture` does besides calling the probe counts as writing: raw rows, statistics, markers of finished shards,
merging. The median over rounds.
`python -m benchmarks.cache_write [--json]`
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.claims import Claim, main
from cnt_pipeline.activation_caches.capture import Item, capture
from cnt_pipeline.activation_caches.probes.effect import EffectProbe, Objective, nodes
from cnt_pipeline.activation_caches.write import Values
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index

SHAPE = {
    "hidden_size": 320, "intermediate_size": 864, "num_hidden_layers": 10, "num_attention_heads": 5,
    "num_key_value_heads": 5, "vocab_size": 4096, "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip
PROMPTS, TOKENS, ANSWER, NODES, BATCH = 64, (24, 56), 16, 4, 32
LIMIT = 0.12


def make_model(folder: Path, seed: int) -> int:
    """A random Llama as a checkpoint folder; returns its number of parameters."""
    import transformers

    torch.manual_seed(seed)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE))
    model.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def make_examples() -> list[Example]:
    """Random token sequences of several lengths, each with an answer of the same length."""
    generator = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(PROMPTS):
        length = int(torch.randint(*TOKENS, (1,), generator=generator))
        tokens = torch.randint(0, int(SHAPE["vocab_size"]), (length + ANSWER,), generator=generator)
        examples.append(Example(tuple(tokens.tolist()), length))
    return examples


def measure(swap: GatedSwap, examples: list[Example], folder: Path) -> dict[str, float]:
    """Seconds in the probe and in all the rest of one capture, and what it left on disk."""
    folder.mkdir()
    probe = EffectProbe(swap, [Objective(((example, 1.0),)) for example in examples], nodes(NODES), BATCH)
    captured = 0.0

    def timed(members: Sequence[int]) -> Values:
        nonlocal captured
        started = time.perf_counter()
        values = probe(members)
        captured += time.perf_counter() - started
        return values

    items = [Item(f"{i:016x}", ("lookalike", "utility")[i % 2], len(e.tokens)) for i, e in enumerate(examples)]
    started = time.perf_counter()
    capture(timed, items, folder)
    whole = time.perf_counter() - started
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {"capture_seconds": captured, "writing_seconds": whole - captured, "cache_mb": size / 1e6}


def run(rounds: int) -> Claim:
    """Measure the claim."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="cache-bench-") as name:
        folder = Path(name)
        parameters = make_model(folder / "target", 1)
        make_model(folder / "donor", 2)
        architecture = read_architecture(folder / "target")
        swap = GatedSwap(
            load_model(folder / "target"), architecture, read_index(folder / "donor"), read_index(folder / "target")
        )
        examples = make_examples()
        figures = [measure(swap, examples, folder / f"round{i}") for i in range(rounds)]
    ratio = statistics.median(f["writing_seconds"] / f["capture_seconds"] for f in figures)
    raw = {
        "parameters": parameters, "neurons": sum(m.neurons for m in architecture.matrices), "prompts": PROMPTS,
        "nodes": NODES, "rounds": figures,
    }  # fmt: skip
    claim = "writing an activation cache (rows and statistics), time over that of capturing it"
    return Claim(claim, ratio, LIMIT, raw)


if __name__ == "__main__":
    sys.exit(main(run, rounds=2))
