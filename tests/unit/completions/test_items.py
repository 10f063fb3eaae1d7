"""Likelihoods of sentences and choices are those of plain forward passes, however items are batched or ordered."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import cnt_pipeline
from cnt_pipeline.completions.answers import read_answers, write_answers
from cnt_pipeline.completions.items import ask
from cnt_pipeline.errors import InputError
from cnt_pipeline.models import generate
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.prompt_sets.items import Item, item_id
from cnt_pipeline.study.schema import Generation

torch.set_num_threads(1)
SETTINGS = Generation(max_new_tokens=6)
ANIMALS = ("cat", "dog", "bird", "baker", "farmer")


@pytest.fixture(scope="module")
def speaker() -> tuple[Any, Any]:
    folder = Path(cnt_pipeline.__file__).parent / "demo" / "models" / "helpful"
    return load_model(folder), load_tokenizer(folder)


def item(text: str, *choices: str, **more: Any) -> Item:
    messages = (("user", text),)
    return Item(item_id(messages, "", choices), messages, choices=choices, roles=("x",) * len(choices), **more)


def logliks(speaker: tuple[Any, Any], start: Sequence[int], choices: Sequence[str]) -> list[tuple[float, int]]:
    model, tokenizer = speaker
    found = []
    for choice in choices:
        ids = tokenizer(choice, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            scores = model(torch.tensor([[*start, *ids]])).logits[0].double().log_softmax(-1)
        found.append((sum(float(scores[len(start) + i - 1, token]) for i, token in enumerate(ids)), len(ids)))
    return found


@pytest.mark.parametrize("context", ["", "the farmer has a"])
def test_a_sentence_is_scored_from_its_first_word_without_a_chat(speaker: tuple[Any, Any], context: str) -> None:
    model, tokenizer = speaker
    asked = [item(context, f"the {animal} sleeps", f"a {animal} that runs to the old town") for animal in ANIMALS]
    answers = ask(model, tokenizer, asked, SETTINGS, "text", ["choices"], 3)
    before = tokenizer(context, add_special_tokens=False)["input_ids"] if context else []
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for one, answer in zip(asked, answers, strict=True):
        expected = logliks(speaker, [begin, *before], one.choices)
        assert answer.choice_loglik == pytest.approx([value for value, _ in expected], abs=1e-3)
        assert answer.choice_tokens == tuple(count for _, count in expected)
        assert answer.text == "" and answer.token_ids == () and answer.answer_nll is None


def test_choices_of_a_chat_go_on_from_the_assistants_turn(speaker: tuple[Any, Any]) -> None:
    model, tokenizer = speaker
    asked = [item(f"where is the {animal}?", "A", "B") for animal in ANIMALS]
    answers = ask(model, tokenizer, asked, SETTINGS, "chat", ["choices"], 2)
    for one, answer in zip(asked, answers, strict=True):
        start = generate.encode_prompt(tokenizer, one.messages)
        assert answer.choice_loglik == pytest.approx([v for v, _ in logliks(speaker, start, one.choices)], abs=1e-3)


def test_the_order_of_the_items_changes_no_bit(speaker: tuple[Any, Any]) -> None:
    asked = [item(f"tell me of the {animal}", "yes", "no it is not", answers=("yes",)) for animal in ANIMALS]
    needs = ("text", "choices", "reference")
    one = ask(*speaker, asked, SETTINGS, "chat", needs, 2)
    two = ask(*speaker, asked[::-1], SETTINGS, "chat", needs, 2)
    assert one == two[::-1] and [answer.id for answer in one] == [item.id for item in asked]


def test_only_what_is_needed_is_asked(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    asked = [item("tell me of the cat", answers=("yes",))]
    (said,) = ask(*speaker, asked, SETTINGS, "chat", ["text"], 2)
    assert said.token_ids and said.answer_nll is None
    (scored,) = ask(*speaker, asked, SETTINGS, "chat", ["reference"], 2)
    assert scored.answer_nll is not None and scored.token_ids == ()
    write_answers([said, scored], tmp_path / "a.parquet")
    assert read_answers(tmp_path / "a.parquet") == [said, scored]


def test_what_does_not_fit_into_the_context_is_refused(speaker: tuple[Any, Any]) -> None:
    long = item("", "the cat " * 400, source="rows.jsonl", row=3)
    with pytest.raises(InputError, match=r"rows.jsonl, row 4\) has \d+ tokens with its longest choice"):
        ask(*speaker, [long], SETTINGS, "text", ["choices"], 2)


def test_a_sentence_without_tokens_is_refused(speaker: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="a sentence without tokens"):
        ask(*speaker, [item("", "")], SETTINGS, "text", ["choices"], 2)
