"""Examples are read in the parts that take the fewest tokens, and what is read does not depend on the parts."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from cnt_pipeline.models import teacher
from cnt_pipeline.models.teacher import Example, even_parts, example_nll
from tests.unit.models.conftest import build

torch.set_num_threads(1)
START = tuple(range(3, 15))


def examples(seed: int, count: int, start: tuple[int, ...] = START) -> list[Example]:
    generator = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        own = tuple(int(token) for token in generator.integers(3, 60, size=generator.integers(3, 40)))
        made.append(Example(start + own, len(start) + len(own) - int(generator.integers(1, 3))))
    return made


def cost(parts: list[list[int]], given: list[Example], common: int) -> int:
    """Tokens read: a part's common start once, and every example as wide as its longest."""
    return sum(
        common + teacher._PART + len(part) * (max(len(given[i].tokens) for i in part) - common) for part in parts
    )


@pytest.mark.parametrize("seed", range(6))
def test_no_other_cut_of_the_examples_reads_fewer_tokens(seed: int) -> None:
    given = examples(seed, 8)
    common = next(i for i in range(99) if len({example.tokens[i] for example in given}) > 1)
    parts = even_parts(given)
    order = [i for part in parts for i in part]
    assert sorted(order) == list(range(8))
    assert [len(given[i].tokens) for i in order] == sorted((len(e.tokens) for e in given), reverse=True)
    cuts = itertools.chain.from_iterable(itertools.combinations(range(1, 8), n) for n in range(8))
    least = min(
        cost([order[a:b] for a, b in itertools.pairwise((0, *cut, 8))], given, common) for cut in cuts
    )  # fmt: skip
    assert cost(parts, given, common) == least


def test_examples_of_one_length_stay_together() -> None:
    given = [Example((*START, 20 + i, 30), 13) for i in range(5)]
    assert even_parts(given) == [[0, 1, 2, 3, 4]]
    assert even_parts(given[:1]) == [[0]]


def test_values_and_gradients_are_those_of_every_example_by_itself(tmp_path: Path) -> None:
    model = build("llama", tmp_path).double()
    given = examples(0, 7)
    assert len(even_parts(given)) > 1
    weights = torch.linspace(0.5, 2, len(given), dtype=torch.float64)
    means, sums = example_nll(model, given)
    (means.double() * weights).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    for example, weight, mean, total in zip(given, weights, means.tolist(), sums.tolist(), strict=True):
        tokens = torch.tensor([example.tokens])
        logits = model(input_ids=tokens).logits[0, example.start - 1 : -1].log_softmax(-1)
        nll = -logits.gather(1, tokens[0, example.start :, None]).sum()
        assert (mean, total) == (
            pytest.approx(nll.item() / example.answer_length, rel=1e-5),
            pytest.approx(nll.item(), rel=1e-5),
        )
        (nll / example.answer_length * weight).backward()
    assert found
    for name, parameter in model.named_parameters():
        if name in found:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
