"""A random Llama of 134 million parameters and batches for it: what the cost of a probe is measured on."""

import resource
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cnt_pipeline.models.teacher import Example

SHAPE = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip
BATCHES = {"8x64": (8, 64), "32x48": (32, 48)}
"""Examples and tokens of each batch; half of the tokens are the answer."""


def make_model(folder: Path, seed: int) -> None:
    """Write a random model as a checkpoint folder."""
    import transformers

    torch.manual_seed(seed)
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPE)).save_pretrained(folder)


def make_examples(count: int, tokens: int) -> list[Example]:
    """Random token sequences of which the second half is the answer."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, int(SHAPE["vocab_size"]), (count, tokens), generator=generator)
    return [Example(tuple(row), tokens // 2) for row in drawn.tolist()]


def cpu_seconds(work: Callable[..., object], *given: object) -> float:
    """Processor time of this process, which other work on the machine disturbs less than the clock."""
    started = time.process_time()
    work(*given)
    return time.process_time() - started


def peak_mb() -> float:
    """The largest memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
