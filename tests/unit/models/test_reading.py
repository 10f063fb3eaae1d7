"""Prompts that begin alike are read once, and nothing but time depends on it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cnt_pipeline.models import reading
from cnt_pipeline.models.generate import greedy
from tests.unit.models.conftest import CONFIGS, build

torch.set_num_threads(1)
START = tuple(range(3, 15))
PROMPTS = [(*START, *tail) for tail in ((20, 21), (22,), (20, 23, 24, 25, 26), (27, 28, 29))]
CONTINUATIONS = [((30,), (31, 32, 33)), (), ((34, 35),), ((36,), (37,), (38, 39))]


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build(request.param, tmp_path_factory.mktemp(request.param))


@torch.no_grad()
def alone(model: Any, prompt: tuple[int, ...], text: tuple[int, ...]) -> float:
    found = model(torch.tensor([prompt + text])).logits[0].double().log_softmax(-1)
    return sum(float(found[len(prompt) - 1 + i, token]) for i, token in enumerate(text))


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_continuations_are_as_likely_as_in_a_sequence_of_their_own(model: Any, batch_size: int) -> None:
    found = reading.continuation_logliks(model, PROMPTS, CONTINUATIONS, batch_size)
    for prompt, texts, values in zip(PROMPTS, CONTINUATIONS, found, strict=True):
        assert values == pytest.approx([alone(model, prompt, text) for text in texts], abs=1e-4)


def test_answers_are_those_of_prompts_asked_one_by_one(model: Any) -> None:
    together = greedy(model, PROMPTS, 6, 100, frozenset())
    assert [answer.tokens for answer in together] == [
        greedy(model, [prompt], 6, 1, frozenset())[0].tokens for prompt in PROMPTS
    ]


def test_a_common_start_is_read_once(tmp_path: Path) -> None:
    llama = build("llama", tmp_path)
    read: list[torch.Size] = []
    embed = llama.get_input_embeddings()
    embed.register_forward_hook(lambda module, arguments, output: read.append(arguments[0].shape))
    reading.read_prompts(llama, PROMPTS)
    assert read == [(1, len(START)), (len(PROMPTS), 5)]
