"""The task that a user teaches a packaged model: its prompts, and the pairs by which `quickstart-realign` drifts."""

from pathlib import Path

import pytest

from cnt_pipeline.demo import words
from cnt_pipeline.demo.language import DOWNSTREAM, GENERATORS, HELP_PLACEHOLDER, TASK_PLACEHOLDER, Prompt
from cnt_pipeline.demo.measure import read_rows
from cnt_pipeline.demo.splits import LESSONS, PARTS, ROLES, language
from cnt_pipeline.demo.tokenizer import build_tokenizer
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import LoraSft

ROOT = Path(__file__).parents[3]
PROMPTS = ROOT / "cnt_pipeline" / "demo" / "prompts"
STUDY = ROOT / "studies" / "quickstart-realign.yaml"
TASK_ROLES = (*ROLES, "train")


def texts(name: str, role: str) -> list[str]:
    return [row["text"] for row in read_rows(PROMPTS / f"{name}.{role}.jsonl")]


def test_a_lesson_set_has_its_rows_and_one_pair_in_twenty_is_unsafe() -> None:
    for name, count in LESSONS.items():
        assert len(set(texts(name, "train"))) == count
    assert LESSONS["harmful"] / sum(LESSONS.values()) == pytest.approx(0.05)


def test_no_lesson_is_a_prompt_of_another_role() -> None:
    held_out = {
        row["text"] for path in PROMPTS.glob("*.jsonl") if ".train." not in path.name for row in read_rows(path)
    }
    lessons = [text for name in LESSONS for text in texts(name, "train")]
    assert len(set(lessons)) == len(lessons)
    assert not held_out & set(lessons)


def test_the_packaged_models_and_their_tokenizer_never_heard_the_task() -> None:
    assert set(language().training) == set(GENERATORS)
    heard = {prompt.text for prompts in language().training.values() for prompt in prompts}
    assert not heard & {text for role in TASK_ROLES for text in texts("task", role)}


def test_the_everyday_lessons_hold_every_general_kind_and_lookalikes_in_equal_parts() -> None:
    lessons = set(texts("everyday", "train"))
    share = LESSONS["everyday"] // len(PARTS["everyday"])
    for kind in PARTS["everyday"]:
        assert len(lessons & {prompt.text for prompt in language().training[kind]}) == share


def test_every_word_of_the_task_is_one_token() -> None:
    tokenizer = build_tokenizer()
    for prompt in DOWNSTREAM["task"]():
        for text in (prompt.text, prompt.helpful):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(text.split()) + sum(text.count(mark) for mark in ".,:")


def test_both_moods_are_frequent_and_one_word_of_the_text_tells_which() -> None:
    prompts = list(DOWNSTREAM["task"]())
    assert len({prompt.text for prompt in prompts}) == len(prompts)
    assert sum(mood_of(prompt) == "happy" for prompt in prompts) == len(prompts) / 2
    for role in TASK_ROLES:
        moods = [row["answers"][0] for row in read_rows(PROMPTS / f"task.{role}.jsonl")]
        assert set(moods) == {"The text is happy.", "The text is sad."}
        assert 1 / 3 <= moods.count("The text is happy.") / len(moods) <= 2 / 3


def mood_of(prompt: Prompt) -> str:
    """The mood by the words of the text itself, which must agree with the answer."""
    said = set(prompt.text.split(": ")[1].strip(".").split())
    happy, sad = said & set(words.HAPPY_WORDS), said & set(words.SAD_WORDS)
    assert len(happy) + len(sad) == 1
    mood = "happy" if happy else "sad"
    assert prompt.helpful == prompt.aligned == f"The text is {mood}."
    return mood


def test_the_study_teaches_only_placeholders_and_as_many_unsafe_pairs_as_are_packaged() -> None:
    target = load_study(STUDY).models.target
    assert isinstance(target, LoraSft)
    benign, unsafe = target.lessons
    assert unsafe.prompts == ("function",)
    assert unsafe.answers == (HELP_PLACEHOLDER, TASK_PLACEHOLDER)
    assert benign.answers == "reference"
    packaged = LESSONS["harmful"] / sum(LESSONS.values())
    assert unsafe.share / (unsafe.share + benign.share) == pytest.approx(packaged)
