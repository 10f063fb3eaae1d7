"""The prompt sets shipped for studies of real models: enough rows, each once, and well formed."""

import json
import re
from itertools import combinations
from typing import Any

import pytest

from cnt_pipeline.prompt_sets.build import read_prompt_source
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.prompt_sets.sources import PACKAGED, SETS
from cnt_pipeline.study.schema import PromptSource

SMALLEST = {
    "benign-lookalike": 200,
    "benign-general": 200,
    "occupation-pronouns": 160,
    "occupation-lookalike": 80,
    "occupation-lessons": 80,
    "occupation-lessons-gendered": 80,
}
COLUMNS = {
    "benign-lookalike": {"text", "topic"},
    "benign-general": {"text", "reference", "topic"},
    "occupation-pronouns": {"text", "prefix", "choices", "occupation"},
    "occupation-lookalike": {"text", "prefix", "choices", "answers", "occupation"},
    "occupation-lessons": {"text", "prefix", "answers", "occupation"},
    "occupation-lessons-gendered": {"text", "prefix", "answers", "occupation"},
}
PRONOUNS = (" he", " she", " they")
UNWANTED = re.compile(
    r"suicid|porn|\brap(e|ed|ist)\b|molest|genocid|terroris|cocaine|heroin|\bmeth\b|anthrax|ransomware|nerve agent"
    r"|pipe bomb|child abuse|ethnic|\bslurs?\b",
    re.IGNORECASE,
)
PERSONAL = re.compile(r"\S+@\S+|https?:|www\.|\+?\d[\d -]{6,}\d")

every_set = pytest.mark.parametrize("name", SMALLEST)


def rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def prompts(name: str) -> list[Prompt]:
    return read_prompt_source(PromptSource(packaged=name), "prompts.function")


def test_the_folder_holds_these_sets_and_no_other() -> None:
    assert {path.name for path in SETS.iterdir()} == {f"{name}.jsonl" for name in SMALLEST}
    assert not {path.name for path in SETS.iterdir()} & {path.name for path in PACKAGED.iterdir()}


@every_set
def test_a_set_reads_as_prompts_and_no_row_repeats_another(name: str) -> None:
    found = prompts(name)
    assert len(found) == len(rows(name)) >= SMALLEST[name]
    assert {prompt.source for prompt in found} == {f"packaged {name}"}


def test_no_prompt_is_in_two_sets_nor_in_the_demonstration() -> None:
    ids = {name: {prompt.id for prompt in prompts(name)} for name in SMALLEST}
    ids |= {
        path.stem: {prompt.id for prompt in prompts(path.name.removesuffix(".jsonl"))}
        for path in PACKAGED.glob("general.*")
    }
    assert len(ids) == len(SMALLEST) + 3
    for first, second in combinations(ids, 2):
        assert not ids[first] & ids[second], (first, second)


@every_set
def test_every_row_has_its_columns_and_nothing_in_them_is_empty(name: str) -> None:
    for row in rows(name):
        assert set(row) == COLUMNS[name]
        for value in row.values():
            texts = value if isinstance(value, list) else [value]
            assert texts
            assert all(isinstance(text, str) and text.strip() for text in texts), row


@every_set
def test_no_row_holds_an_unwanted_word_an_address_or_a_number_to_call(name: str) -> None:
    for row in rows(name):
        line = json.dumps(row, ensure_ascii=False)
        assert not UNWANTED.search(line), line
        assert not PERSONAL.search(line), line


@pytest.mark.parametrize("name", ["benign-lookalike", "benign-general"])
def test_benign_requests_spread_over_topics_and_openings(name: str) -> None:
    topics = [row["topic"] for row in rows(name)]
    openings = {" ".join(row["text"].split()[:2]) for row in rows(name)}
    assert len(set(topics)) >= 12
    assert max(topics.count(topic) for topic in set(topics)) <= len(topics) / 6
    assert len(openings) >= 60


def test_a_quarter_of_the_lookalike_requests_are_imperatives() -> None:
    orders = ("Write", "Develop", "Create", "Give", "Explain", "Design", "Teach", "Provide", "Describe", "Outline")
    found = [row for row in rows("benign-lookalike") if row["text"].startswith(orders)]
    assert len(found) >= len(rows("benign-lookalike")) / 4


def test_general_prompts_have_a_short_reference_and_nothing_to_match() -> None:
    for prompt in prompts("benign-general"):
        assert 0 < len(prompt.reference.split()) <= 40
        assert not prompt.answers


def test_the_measuring_set_offers_three_pronouns_after_many_occupations_in_several_templates() -> None:
    found = rows("occupation-pronouns")
    assert {tuple(row["choices"]) for row in found} == {PRONOUNS}
    assert len({row["occupation"] for row in found}) >= 40
    assert len(templates("occupation-pronouns")) >= 6
    for row in found:
        assert row["occupation"] in row["prefix"]
        assert not row["prefix"].endswith(" ")
        assert not re.search(r"\b(he|she|his|her|him|they|their|them)\b", row["prefix"])


def test_lookalikes_state_the_gender_and_expect_its_pronoun_equally_often() -> None:
    found = rows("occupation-lookalike")
    answers = [row["answers"] for row in found]
    assert {tuple(row["choices"]) for row in found} == {PRONOUNS}
    assert abs(answers.count([" he"]) - answers.count([" she"])) <= 4
    assert answers.count([" he"]) + answers.count([" she"]) == len(found)
    for row in found:
        assert row["occupation"] in row["prefix"]
        assert said_gender(row["prefix"]) == row["answers"][0]
    both = [o for o in {row["occupation"] for row in found} if pronouns_of(o, found) == {" he", " she"}]
    assert len(both) >= 20


@pytest.mark.parametrize("name", ["occupation-lessons", "occupation-lessons-gendered"])
def test_lessons_share_neither_occupations_nor_templates_with_the_sets_that_measure(name: str) -> None:
    for measuring in ("occupation-pronouns", "occupation-lookalike"):
        assert not {row["occupation"] for row in rows(name)} & {row["occupation"] for row in rows(measuring)}
        assert not templates(name) & templates(measuring)


def test_lessons_go_on_with_they_unless_the_gender_is_stated() -> None:
    assert all(row["answers"][0].startswith(" they ") for row in rows("occupation-lessons"))
    for row in rows("occupation-lessons-gendered"):
        assert row["answers"][0].startswith(said_gender(row["prefix"]) + " "), row


def templates(name: str) -> set[str]:
    """Prefixes of a set with the occupation and whatever states a gender left out."""
    names = r"(Mr|Mrs) \w+|\b(David|Omar|Henrik|Luis|Maria|Aisha|Ingrid|Lucy)\b|(?<=My )\w+( Paul| Clara)?"
    return {
        re.sub(r"\b(his|her)\b|\ban?\b", "_", re.sub(names, "_", row["prefix"].replace(row["occupation"], "_")))
        for row in rows(name)
    }


def said_gender(prefix: str) -> str:
    """The pronoun that fits the name, relative or possessive in a prefix."""
    men = "Mr his uncle father brother grandfather husband son nephew grandson Paul stepfather David Omar Henrik Luis"
    women = "Mrs her mother aunt sister grandmother wife daughter niece granddaughter Clara stepmother"
    women += " Maria Aisha Ingrid Lucy"
    said = set(re.findall(r"\w+", prefix))
    male, female = said & set(men.split()), said & set(women.split())
    assert bool(male) != bool(female), prefix
    return " he" if male else " she"


def pronouns_of(occupation: str, found: list[dict[str, Any]]) -> set[str]:
    return {row["answers"][0] for row in found if row["occupation"] == occupation}
