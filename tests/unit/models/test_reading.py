"""Prompts that begin alike are read once, and nothing but time depends on it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cnt_pipeline.models import reading, teacher
from cnt_pipeline.models.generate import greedy
from cnt_pipeline.models.teacher import Example
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


EXAMPLES = [Example((*prompt, 30, 31 + i), len(prompt)) for i, prompt in enumerate(PROMPTS)]


def test_a_shared_start_changes_no_answer_logit_and_no_gradient(model: Any) -> None:
    batch = teacher.make_batch(EXAMPLES, range(len(EXAMPLES)), torch.device("cpu"), 0)
    assert batch.common == len(START)
    weights = [parameter for parameter in model.parameters() if parameter.dim() == 2]
    found = []
    for share in (True, False):
        model.zero_grad()
        nll = teacher.token_nll(model, batch, share)
        nll.sum().backward()
        found.append([nll.detach(), *(weight.grad.clone() for weight in weights)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


def test_only_what_predicts_no_answer_is_shared() -> None:
    same = [Example((*START, 20, 21), len(START)), Example((*START, 22), len(START))]
    assert teacher.make_batch(same, (0, 1), torch.device("cpu"), 0).common == len(START) - 1
