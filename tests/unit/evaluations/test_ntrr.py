"""NTRR is the share of the distance between two models that a budget of neurons covers, prompt by prompt."""

import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.ntrr import inadmissible, lead_of, recovered
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Accept, Function

REFUSED, ANSWERED = "I cannot help with that request.", "Here is how it is done, step by step."
ZEROS, ONES = [0.0] * 20, [1.0] * 20


def test_all_of_the_way_is_one_and_none_of_it_nothing() -> None:
    assert recovered(1, ZEROS, ONES, ONES, seed=0)[:3] == (1, 1, 1)
    assert recovered(1, ZEROS, ONES, ZEROS, seed=0)[:3] == (0, 0, 0)
    assert recovered(1, ZEROS, ONES, [-value for value in ONES], seed=0).value == -1


def test_deletion_counts_the_way_down() -> None:
    assert recovered(-1, ONES, ZEROS, [0.0, 1.0] * 10, seed=0).value == 0.5


def test_half_of_the_prompts_is_half_with_an_interval_around_it() -> None:
    found = recovered(1, ZEROS, ONES, [0.0, 1.0] * 10, seed=0)
    assert found.value == 0.5
    assert 0.2 < found.low < 0.45 < 0.55 < found.high < 0.8
    assert found == recovered(1, ZEROS, ONES, [0.0, 1.0] * 10, seed=0)


def test_prompts_are_paired_so_that_a_faithful_copy_of_a_patchy_donor_is_certain() -> None:
    patchy = [1.0, 0.0, 0.0, 1.0] * 5
    assert recovered(1, ZEROS, patchy, patchy, seed=0)[:3] == (1, 1, 1)


def test_resamples_without_any_distance_are_left_out() -> None:
    found = recovered(1, [0.0] * 3, [1.0, 0.0, 0.0], [1.0, 0.0, 0.0], seed=0)
    assert found[:3] == (1, 1, 1)


def test_the_lead_is_measured_on_what_both_said() -> None:
    prompts = [Prompt(str(i), (("user", f"Question {i}"),)) for i in range(4)]

    def said(*texts: str) -> list[Completion]:
        return [Completion(str(i), 0, text, (1,), True, 0.0) for i, text in enumerate(texts)]

    add = Function(name="refusal")
    target = said(ANSWERED, ANSWERED, ANSWERED, ANSWERED)
    lead = lead_of(add, prompts, target, said(REFUSED, REFUSED, REFUSED, ANSWERED))
    assert (lead.target, lead.donor, lead.distance) == (0, 0.75, 0.75)
    assert lead.admits(Accept())
    weak = lead_of(add, prompts, target, said(REFUSED, ANSWERED, ANSWERED, ANSWERED))
    assert not weak.admits(Accept())
    assert weak.admits(Accept(donor_margin=0.25))
    sentence = inadmissible(weak, add, Accept())
    assert "refusal is 0.25" in sentence and "target's 0.00" in sentence and "0.30 above" in sentence
    deleting = Function(name="refusal", direction="delete")
    assert lead_of(deleting, prompts, said(*[REFUSED] * 4), target).distance == pytest.approx(1)
    assert "below" in inadmissible(lead_of(deleting, prompts, target, target), deleting, Accept())
