"""What a model is recorded to say is what transformers and plain per-sequence computing say, however it is batched."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cnt_pipeline.completions.build import (
    EncodedSet,
    agree_with_target,
    choice_logliks,
    compare_with_itself,
    complete,
    context_length,
    encode_set,
    measure_distance,
)
from cnt_pipeline.completions.schema import Completion, read_completions, write_completions
from cnt_pipeline.errors import InputError
from cnt_pipeline.models import generate, teacher
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Generation
from tests.unit.models.conftest import build, write_tokenizer

torch.set_num_threads(1)
NEW = 10
CLOSE = 1e-4


@dataclass(frozen=True)
class Speaker:
    """A tiny random model with its tokenizer."""

    model: Any
    tokenizer: Any


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Speaker]:
    made: dict[tuple[str, int], Speaker] = {}

    def get(name: str, seed: int = 0) -> Speaker:
        if (name, seed) not in made:
            folder = tmp_path_factory.mktemp(f"{name}{seed}")
            build(name, folder, seed=seed)
            write_tokenizer(folder)
            made[name, seed] = Speaker(load_model(folder), load_tokenizer(folder))
        return made[name, seed]

    return get


def words(count: int, start: int) -> str:
    return " ".join(f"w{3 + (start * 7 + i * 5) % 60}" for i in range(count))


BARE = [Prompt("a" * 16, (("user", "w5 w6"),)), Prompt("b" * 16, (("user", "w7"),), choices=("w8",))]
"""Prompts without answers or reference."""
PROMPTS = [
    Prompt(f"{i:016d}", (("user", words(length, i)),), reference=words(3, i), choices=(words(1, i), words(4, i + 1)))
    for i, length in enumerate((3, 9, 1, 14, 5, 5, 2, 11, 7))
]
SETTINGS = Generation(max_new_tokens=NEW)


def encoded(speaker: Speaker, prompts: list[Prompt] = PROMPTS) -> EncodedSet:
    return encode_set(speaker.tokenizer, prompts, SETTINGS, context_length(speaker.model))


@torch.no_grad()
def log_probabilities(model: Any, tokens: tuple[int, ...]) -> torch.Tensor:
    """[tokens, vocabulary] of one sequence alone, in float64 after the model."""
    result: torch.Tensor = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return result


def loglik(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    """Summed log-likelihood of `answer` after `prompt`, of one sequence alone."""
    found = log_probabilities(model, prompt + answer)
    return sum(float(found[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_greedy_answers_are_transformers_own(speakers: Callable[..., Speaker], name: str, batch_size: int) -> None:
    speaker = speakers(name)
    asked = encoded(speaker)
    answers = generate.greedy(speaker.model, asked.tokens, NEW, batch_size, frozenset({2, 17}))
    lengths = set()
    for tokens, answer in zip(asked.tokens, answers, strict=True):
        with torch.no_grad():
            theirs = speaker.model.generate(
                torch.tensor([tokens]), attention_mask=torch.ones(1, len(tokens), dtype=torch.long),
                do_sample=False, max_new_tokens=NEW, eos_token_id=[2, 17], pad_token_id=0,
            )[0, len(tokens) :]  # fmt: skip
        assert list(answer.tokens) == theirs.tolist()
        assert answer.finished == (answer.tokens[-1] in (2, 17))
        assert answer.loglik == pytest.approx(loglik(speaker.model, tokens, answer.tokens), abs=CLOSE)
        lengths.add(len(answer.tokens))
    assert NEW in lengths


def test_some_answer_stops_at_a_stop_token_and_keeps_it(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    asked = encoded(speaker)
    free = generate.greedy(speaker.model, asked.tokens, NEW, 4, frozenset())
    assert {len(answer.tokens) for answer in free} == {NEW}
    assert not any(answer.finished for answer in free)
    stop = free[3].tokens[4]
    for whole, cut in zip(free, generate.greedy(speaker.model, asked.tokens, NEW, 4, frozenset({stop})), strict=True):
        end = whole.tokens.index(stop) + 1 if stop in whole.tokens else NEW
        assert cut.tokens == whole.tokens[:end]
        assert cut.finished == (stop in whole.tokens)


def test_stop_tokens_are_the_generation_settings_and_the_tokenizers(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    before = speaker.model.generation_config.eos_token_id
    try:
        speaker.model.generation_config.eos_token_id = [5, 6]
        assert generate.stop_tokens(speaker.model, speaker.tokenizer) == {2, 5, 6}
        speaker.model.generation_config.eos_token_id = None
        assert generate.stop_tokens(speaker.model, speaker.tokenizer) == {2}
    finally:
        speaker.model.generation_config.eos_token_id = before


def test_the_order_of_prompts_and_their_neighbours_change_nothing(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    forward = complete(speaker.model, speaker.tokenizer, encoded(speaker), SETTINGS, 4)
    turned = PROMPTS[::-1]
    backward = complete(speaker.model, speaker.tokenizer, encoded(speaker, turned), SETTINGS, 3)[::-1]
    alone = [complete(speaker.model, speaker.tokenizer, encoded(speaker, [p]), SETTINGS, 1)[0] for p in PROMPTS]
    for one, two, three in zip(forward, backward, alone, strict=True):
        assert one.id == two.id == three.id
        assert one.token_ids == two.token_ids == three.token_ids
        assert one.text == two.text == three.text
        assert one.loglik == pytest.approx(two.loglik, abs=CLOSE)
        assert one.loglik == pytest.approx(three.loglik, abs=CLOSE)


def test_what_fills_the_padding_is_irrelevant(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    asked = encoded(speaker)
    before = generate.greedy(speaker.model, asked.tokens, NEW, 100, frozenset())
    values = choice_logliks(speaker.model, asked, 100)
    pad = speaker.model.config.pad_token_id
    try:
        speaker.model.config.pad_token_id = 33
        assert generate.greedy(speaker.model, asked.tokens, NEW, 100, frozenset()) == before
        assert choice_logliks(speaker.model, asked, 100) == values
    finally:
        speaker.model.config.pad_token_id = pad


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_likelihoods_of_references_and_choices_equal_those_of_single_sequences(
    speakers: Callable[..., Speaker], name: str, batch_size: int
) -> None:
    speaker = speakers(name)
    asked = encoded(speaker)
    rows = complete(speaker.model, speaker.tokenizer, asked, SETTINGS, batch_size)
    for i, row in enumerate(rows):
        expected = [loglik(speaker.model, asked.tokens[i], choice) for choice in asked.choices[i]]
        assert row.choice_loglik == pytest.approx(expected, abs=CLOSE)
        nll = -loglik(speaker.model, asked.tokens[i], asked.answers[i]) / len(asked.answers[i])
        assert row.answer_nll == pytest.approx(nll, abs=CLOSE)


def test_prompts_without_references_or_choices_have_no_likelihoods(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    rows = complete(speaker.model, speaker.tokenizer, encoded(speaker, [*BARE, PROMPTS[0]]), SETTINGS, 2)
    assert [row.answer_nll is None for row in rows] == [True, True, False]
    assert [len(row.choice_loglik) for row in rows] == [0, 1, 2]
    quick = complete(speaker.model, speaker.tokenizer, encoded(speaker), SETTINGS, 2, likelihoods=False)
    assert all(row.answer_nll is None and row.choice_loglik == () for row in quick)
    assert complete(speaker.model, speaker.tokenizer, encoded(speaker, []), SETTINGS, 2) == []


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_distance_from_the_target_equals_a_float64_reference(speakers: Callable[..., Speaker], batch_size: int) -> None:
    target, other = speakers("llama"), speakers("llama", 1)
    asked = encoded(target)
    theirs = complete(target.model, target.tokenizer, asked, SETTINGS, 4)
    ours = complete(other.model, other.tokenizer, asked, SETTINGS, 4)
    compared = measure_distance(other.model, target.model, asked, ours, theirs, batch_size)
    for i, row in enumerate(compared):
        answer = theirs[i].token_ids
        scored = slice(len(asked.tokens[i]) - 1, -1)
        q = log_probabilities(other.model, asked.tokens[i] + answer)[scored]
        p = log_probabilities(target.model, asked.tokens[i] + answer)[scored]
        assert row.target_kl == pytest.approx(float((p.exp() * (p - q)).sum(-1).mean()), rel=1e-3, abs=CLOSE)
        assert row.target_kl is not None and row.target_kl > 0
        nll = -loglik(other.model, asked.tokens[i], answer) / len(answer)
        assert row.target_nll == pytest.approx(nll, abs=CLOSE)
        assert (row.text, row.loglik, row.choice_loglik) == (ours[i].text, ours[i].loglik, ours[i].choice_loglik)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_agreement_is_counted_where_utility_rests_on_it(speakers: Callable[..., Speaker], batch_size: int) -> None:
    target, other = speakers("llama"), speakers("llama", 1)
    asked = encoded(target, [*BARE[:1], *PROMPTS, *BARE[1:]])
    theirs = complete(target.model, target.tokenizer, asked, SETTINGS, 4)
    ours = complete(other.model, other.tokenizer, asked, SETTINGS, 4)
    agreed = agree_with_target(other.model, asked, ours, theirs, batch_size)
    for i, (prompt, row) in enumerate(zip(asked.prompts, agreed, strict=True)):
        if prompt.answers or prompt.reference:
            assert row == ours[i]
            continue
        answer = theirs[i].token_ids
        first = log_probabilities(other.model, asked.tokens[i] + answer)[len(asked.tokens[i]) - 1 : -1].argmax(-1)
        share = sum(int(said == best) for said, best in zip(answer, first.tolist(), strict=True)) / len(answer)
        assert row == replace(ours[i], target_agreement=pytest.approx(share))
    assert any(row.target_agreement is not None for row in agreed)


def test_the_target_is_at_no_distance_from_itself(speakers: Callable[..., Speaker]) -> None:
    target = speakers("llama")
    asked = encoded(target, BARE)
    rows = complete(target.model, target.tokenizer, asked, SETTINGS, 4)
    measured = measure_distance(target.model, target.model, asked, rows, rows, 3)
    measured = agree_with_target(target.model, asked, measured, rows, 3)
    for stated, computed in zip(compare_with_itself(rows), measured, strict=True):
        assert (stated.target_kl, stated.target_agreement) == (0.0, 1.0)
        assert (computed.target_kl, computed.target_agreement) == (0.0, 1.0)
        assert stated.target_nll == pytest.approx(computed.target_nll, abs=CLOSE)


def test_a_prompt_that_does_not_fit_the_context_with_its_answer_is_refused(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    longest = context_length(speaker.model)
    assert longest == 64
    fits = Prompt("c" * 16, (("user", words(64 - NEW, 0)),), source="set.jsonl", row=4)
    assert len(encoded(speaker, [fits]).tokens[0]) == 64 - NEW
    long = Prompt("d" * 16, (("user", words(65 - NEW, 0)),), source="set.jsonl", row=4)
    with pytest.raises(InputError, match=r"prompt d+ \(set\.jsonl, row 5\) has 55 tokens.*context of 64; shorten"):
        encoded(speaker, [*PROMPTS, long])
    assert context_length(speakers("gpt2").model) == 64


def test_a_prompt_without_tokens_is_refused(speakers: Callable[..., Speaker]) -> None:
    with pytest.raises(InputError, match="has no tokens in this tokenizer"):
        encoded(speakers("llama"), [Prompt("e" * 16, (("user", " "),))])


def test_the_chat_template_the_prefix_and_the_system_message_reach_the_model(
    speakers: Callable[..., Speaker],
) -> None:
    tokenizer = speakers("llama").tokenizer
    before = tokenizer.chat_template
    try:
        tokenizer.chat_template = (
            "{% for m in messages %}{{ 'w10 ' if m['role'] == 'system' else 'w11 ' }}{{ m['content'] }} "
            "{% endfor %}{% if add_generation_prompt %}w12 {% endif %}"
        )
        turns = (("user", "w5"), ("assistant", "w6"), ("user", "w7"))
        assert generate.encode_prompt(tokenizer, turns, "w9") == (11, 5, 11, 6, 11, 7, 12, 9)
        assert generate.encode_prompt(tokenizer, turns[:1], system="w8") == (10, 8, 11, 5, 12)
        own = (("system", "w3"), ("user", "w5"))
        assert generate.encode_prompt(tokenizer, own, system="w8") == (10, 3, 11, 5, 12)
        tokenizer.chat_template = None
        assert generate.encode_prompt(tokenizer, turns[:1], "w9", "w8") == (8, 5, 9)
        tokenizer.chat_template = "{{ raise_exception('no system role') }}"
        with pytest.raises(InputError, match=r"refuses messages of system, user \(no system role\)"):
            generate.encode_prompt(tokenizer, own)
    finally:
        tokenizer.chat_template = before


def test_answers_among_choices_are_no_free_answers(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    choice = Prompt("c" * 16, (("user", "w5"),), answers=("w6",), choices=("w6", "w7"))
    both = Prompt("d" * 16, (("user", "w5"),), answers=("w6",), choices=("w6", "w7"), reference="w9")
    assert encoded(speaker, [choice, both]).answers == ((), (9,))


def test_a_reference_that_repeats_the_prefix_is_scored_behind_it(speakers: Callable[..., Speaker]) -> None:
    speaker = speakers("llama")
    prompts = [Prompt("f" * 16, (("user", "w5 "),), prefix="w6 w7", answers=(answer,)) for answer in ("w6 w7 w8", "w8")]
    assert encoded(speaker, prompts).answers == ((8,), (8,))


def test_teacher_forcing_serves_every_example_once_and_in_order(speakers: Callable[..., Speaker]) -> None:
    model = speakers("llama").model
    examples = [Example(tuple(3 + (i + j) % 60 for j in range(2 + i % 5)), 1) for i in range(13)]
    for size in (1, 4, 5, 13, 50):
        batches = list(teacher.batches(examples, size, torch.device("cpu"), 0))
        assert sorted(i for batch in batches for i in batch.members) == list(range(13))
        assert max(len(batch.members) for batch in batches) == min(size, 13)
        lengths = [len(examples[i].tokens) for batch in batches for i in batch.members]
        assert lengths == sorted(lengths, reverse=True)
    mean, total = teacher.answer_nll(model, examples, 4), teacher.answer_nll(model, examples, 4, mean=False)
    for example, one, whole in zip(examples, mean, total, strict=True):
        assert whole == pytest.approx(one * example.answer_length, abs=CLOSE)
        assert whole == pytest.approx(-loglik(model, example.tokens[:1], example.tokens[1:]), abs=CLOSE)


def test_completions_are_written_and_read_back_unchanged(tmp_path: Path) -> None:
    rows = [
        Completion("a" * 16, 0, "日本 \u2028", (1, 2), True, -1.5, 0.25, (-1.0, -2.0), 0.5, 0.125, 1.0),
        Completion("b" * 16, 3, "", (2,), False, -math.pi),
    ]
    write_completions(rows, tmp_path / "c.parquet")
    assert read_completions(tmp_path / "c.parquet") == rows
    first = (tmp_path / "c.parquet").read_bytes()
    write_completions(rows, tmp_path / "c.parquet")
    assert (tmp_path / "c.parquet").read_bytes() == first
    write_completions([], tmp_path / "none.parquet")
    assert read_completions(tmp_path / "none.parquet") == []


def test_questions_that_their_choices_decide_need_no_answer(speakers: Callable[..., Speaker]) -> None:
    target, other = speakers("llama"), speakers("llama", 1)
    question = replace(PROMPTS[0], id="question", answers=PROMPTS[0].choices[:1])
    asked = encoded(target, [BARE[0], question])
    assert [prompt.by_choice for prompt in asked.prompts] == [False, True]
    whole = complete(target.model, target.tokenizer, asked, SETTINGS, 4)
    told: list[tuple[int, int | None]] = []
    rows = complete(
        target.model, target.tokenizer, asked, SETTINGS, 4, multiple_choice=False,
        report=lambda what, done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (1, 1)
    assert rows[0].token_ids == whole[0].token_ids
    assert (rows[1].text, rows[1].token_ids, rows[1].finished) == ("", (), False)
    assert rows[1].choice_loglik == pytest.approx(whole[1].choice_loglik, abs=CLOSE)
    assert [row.target_kl for row in compare_with_itself(rows)] == [0.0, None]
    ours = complete(other.model, other.tokenizer, asked, SETTINGS, 4, multiple_choice=False)
    measured = measure_distance(other.model, target.model, asked, ours, rows, 4)
    assert measured[0].target_kl is not None and measured[0].target_kl > 0
    assert measured[1] == ours[1]
