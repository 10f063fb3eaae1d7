"""Claim: the path effects of a Llama of 1.1 billion parameters take at most 12 GB of main memory.

Random bfloat16 weights in shards of a layer each; two short prompts at one node, with the donor read layer by layer and
activation checkpointing. The probe runs in a process of its own, whose peak is read from the kernel.
`python -m benchmarks.probe_memory [--json]`
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.claims import Claim, main

SHAPE = {
    "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32,
    "num_key_value_heads": 4, "vocab_size": 32000, "max_position_embeddings": 64, "tie_word_embeddings": False,
}  # fmt: skip
LIMIT_GB = 12.0


def write_pair(root: Path) -> int:
    """Write `target` and `donor` a layer at a time; returns the number of parameters.

    The donor is the target with a random tenth of each linear weight's size added.
    """
    from transformers import LlamaConfig

    parameters = 0
    for name in ("target", "donor"):
        folder = root / name
        folder.mkdir(parents=True)
        LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"], dtype="bfloat16").save_pretrained(folder)
        places: dict[str, str] = {}
        for number, shapes in enumerate(_shards()):
            drawn = torch.Generator().manual_seed(number)
            moved = torch.Generator().manual_seed(1000 + number)
            file = f"model-{number:05d}.safetensors"
            tensors = {}
            for key, shape in shapes.items():
                weight = torch.ones(shape) if len(shape) == 1 else torch.randn(shape, generator=drawn) * 0.02
                if name == "donor" and "proj" in key:
                    weight += torch.randn(shape, generator=moved) * 0.002
                tensors[key] = weight.bfloat16()
            save_file(tensors, folder / file, {"format": "pt"})
            places |= dict.fromkeys(tensors, file)
            parameters += sum(tensor.numel() for tensor in tensors.values()) if name == "target" else 0
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return parameters


def _shards() -> Iterator[dict[str, tuple[int, ...]]]:
    hidden, ffn, vocabulary = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["vocab_size"]
    keys = hidden // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]
    yield {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    yield {"lm_head.weight": (vocabulary, hidden)}
    for layer in range(SHAPE["num_hidden_layers"]):
        shapes = {
            "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
            "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden), "mlp.down_proj": (hidden, ffn), "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }  # fmt: skip
        yield {f"model.layers.{layer}.{name}.weight": shape for name, shape in shapes.items()}


def probe(root: Path) -> dict[str, float]:
    """Path effects of two prompts at one node in this process; figures of what they took."""
    from cnt_pipeline.activation_caches.probes.effect import EffectProbe, Objective, nodes
    from cnt_pipeline.models.architecture import read_architecture
    from cnt_pipeline.models.gates import GatedSwap
    from cnt_pipeline.models.load import load_model
    from cnt_pipeline.models.teacher import Example
    from cnt_pipeline.models.tensors import read_index

    torch.set_num_threads(1)
    model = load_model(root / "target", dtype="bfloat16")
    swap = GatedSwap(
        model, read_architecture(root / "target"), read_index(root / "donor"), read_index(root / "target"), "lazy", True
    )
    asked = [Objective(((Example((5, 9, 17, 33), 2), 1.0),)), Objective(((Example((3, 60, 22), 1), 1.0),))]
    started = time.perf_counter()
    values = EffectProbe(swap, asked, nodes(1), 2)(range(2))
    return {
        "seconds": time.perf_counter() - started,
        "neurons": sum(array.shape[1] for array in values.values()),
        "largest_effect": max(float(abs(array).max()) for array in values.values()),
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def measured(root: Path) -> dict[str, float]:
    """`probe` in a process of its own, which has held nothing before."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.probe_memory", "--probe", str(root)],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def run(rounds: int) -> Claim:
    """Measure the claim."""
    with tempfile.TemporaryDirectory(prefix="memory-bench-") as name:
        parameters = write_pair(Path(name))
        figures = [measured(Path(name)) for _ in range(rounds)]
    peak = max(f["peak_gb"] for f in figures)
    claim = f"path effects of {parameters / 1e9:.2f} billion parameters, peak memory in GB"
    return Claim(claim, peak, LIMIT_GB, {"parameters": parameters, "rounds": figures})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--probe"]:
        print(json.dumps(probe(Path(sys.argv[2]))))
    else:
        sys.exit(main(run, rounds=1))
