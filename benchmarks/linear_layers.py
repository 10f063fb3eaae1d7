"""Claim: on an AMD processor, answers are read faster through oneDNN than through torch's own choice of MKL.

A random Llama of 134 million parameters, float32 on one thread: 32 prompts of 48 tokens are read and eight tokens are
generated for each, with both kinds of linear layers in turn, in one process. The median ratio over rounds; processor
time. On other processors both are the same and the ratio is 1. `python -m benchmarks.linear_layers [--json]`
"""

import statistics
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from benchmarks.claims import Claim, main
from benchmarks.llama import cpu_seconds, make_examples, make_model
from cnt_pipeline.models.fast_linear import FastLinear, hasten
from cnt_pipeline.models.generate import greedy
from cnt_pipeline.models.load import load_model

LIMIT = 1.0
PROMPTS, TOKENS, ANSWER = 32, 48, 8


def run(rounds: int) -> Claim:
    """Measure the claim."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="linear-bench-") as name:
        folder = Path(name)
        make_model(folder, 1)
        model = load_model(folder)
        prompts = [example.tokens for example in make_examples(PROMPTS, TOKENS)]

        def answer() -> None:
            greedy(model, prompts, ANSWER, PROMPTS, frozenset())

        seconds = []
        for _ in range(rounds):
            _slow(model)
            plain = cpu_seconds(answer)
            hasten(model)
            seconds.append((plain, cpu_seconds(answer)))
    ratios = [fast / plain for plain, fast in seconds]
    return Claim(
        "linear layers through oneDNN, time over that of torch's own choice",
        statistics.median(ratios),
        LIMIT,
        {"ratios": ratios, "seconds_plain_and_fast": seconds},
    )


def _slow(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) is FastLinear:
            module.__class__ = nn.Linear


if __name__ == "__main__":
    sys.exit(main(run, rounds=5))
