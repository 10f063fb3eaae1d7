"""The contrast of two models is what hooks written by hand on both say, and nothing where they agree."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from cnt_pipeline.activation_caches.probes import contrast as contrast_module
from cnt_pipeline.activation_caches.probes.contrast import ContrastProbe
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from tests.unit.activation_caches.conftest import examples
from tests.unit.activation_caches.test_probes import recorded

Models = tuple[GatedSwap, Any]


@pytest.fixture
def two(pairs: Callable[..., GatedSwap]) -> Callable[[str], Models]:
    """The swap of a pair and its donor as transformers loads it, embeddings and norms its own."""

    def get(name: str) -> Models:
        swap = pairs(name, 0.3)
        return swap, load_model(swap.linears[0].donor.folder)

    return get


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox", "phi3", "gemma2"])
def test_the_contrast_is_the_mean_square_difference_of_what_two_models_do_on_one_answer(
    two: Callable[[str], Models], name: str
) -> None:
    (swap, donor), asked = two(name), examples(7)
    found = ContrastProbe(swap.model, donor, swap.architecture, asked, 3)(range(7))
    assert set(found) == {(m.layer, m.family) for m in swap.architecture.matrices}
    for matrix in swap.architecture.matrices:
        for i, example in enumerate(asked):
            ours, theirs = (
                recorded(model, matrix.module, example.tokens, matrix.side).double().numpy()
                for model in (swap.model, donor)
            )
            part = (theirs - ours)[example.start :, matrix.positions]
            expected = (part**2).mean(0)
            assert expected.max() > 1e-6
            assert found[matrix.layer, matrix.family][i] == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_the_contrast_does_not_depend_on_how_prompts_share_batches(
    two: Callable[[str], Models], monkeypatch: pytest.MonkeyPatch
) -> None:
    (swap, donor), asked = two("llama"), examples(9)
    whole = ContrastProbe(swap.model, donor, swap.architecture, asked, 100)(range(9))
    one_by_one = ContrastProbe(swap.model, donor, swap.architecture, asked, 1)(range(9))
    monkeypatch.setattr(contrast_module, "BUDGET", 1)
    starved = ContrastProbe(swap.model, donor, swap.architecture, asked, 100)(range(9))
    for key, values in whole.items():
        assert one_by_one[key] == pytest.approx(values, rel=1e-4, abs=1e-6)
        assert np.array_equal(starved[key], one_by_one[key])


def test_a_model_has_no_contrast_with_itself(two: Callable[[str], Models]) -> None:
    swap, _ = two("llama")
    found = ContrastProbe(swap.model, swap.model, swap.architecture, examples(3), 2)(range(3))
    assert all(not values.any() for values in found.values())


def test_a_prompt_that_was_answered_with_nothing_is_compared_on_its_own_tokens(two: Callable[[str], Models]) -> None:
    swap, donor = two("llama")
    empty = ContrastProbe(swap.model, donor, swap.architecture, [Example((5, 6, 7), 3)], 1)([0])
    asked = ContrastProbe(swap.model, donor, swap.architecture, [Example((5, 6, 7), 0)], 1)([0])
    for key, values in asked.items():
        assert empty[key] == pytest.approx(values, rel=1e-5)


def test_hooks_are_gone_after_a_contrast_that_failed(two: Callable[[str], Models]) -> None:
    swap, donor = two("llama")
    before = [sum(len(m._forward_hooks) for m in model.modules()) for model in (swap.model, donor)]
    with pytest.raises(IndexError):
        ContrastProbe(swap.model, donor, swap.architecture, [Example((5, 10**6), 1)], 1)([0])
    assert [sum(len(m._forward_hooks) for m in model.modules()) for model in (swap.model, donor)] == before
    assert torch.isfinite(donor(torch.tensor([[5, 6]])).logits).all()
