"""Nine roles from any sources: no prompt in two of them, divided by content alone, the same bytes every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.build import Role, build, materialize, read_prompt_source
from cnt_pipeline.prompt_sets.schema import Prompt, file_name, prompt_id, read_prompts
from cnt_pipeline.study.schema import KINDS, SPLITS, KindSources, Prompts, PromptSource, Shares

ROLES: list[Role] = [(split, kind) for split in SPLITS for kind in KINDS]


def texts(prefix: str, count: int) -> list[str]:
    return [f"{prefix} question number {i}" for i in range(count)]


def source(folder: Path, name: str, rows: list[str], **keys: Any) -> PromptSource:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return PromptSource(file=str(path), **keys)


def three(folder: Path, count: int = 60, **keys: Any) -> dict[str, PromptSource]:
    return {kind: source(folder, kind, texts(kind, count), **keys) for kind in KINDS}


def ids(sets: dict[Role, list[Prompt]]) -> dict[Role, list[str]]:
    return {role: [p.id for p in prompts] for role, prompts in sets.items()}


def test_one_source_serves_all_roles_each_prompt_exactly_once(tmp_path: Path) -> None:
    sets = materialize(Prompts(**three(tmp_path, 400)), 0)
    assert list(sets) == ROLES
    for kind in KINDS:
        together = [p.text for split in SPLITS for p in sets[split, kind]]
        assert sorted(together) == sorted(texts(kind, 400))
        for split, share in zip(SPLITS, (0.4, 0.3, 0.3), strict=True):
            assert abs(len(sets[split, kind]) / 400 - share) < 0.08
            rows = [p.row for p in sets[split, kind]]
            assert rows == sorted(rows)


def test_where_a_prompt_goes_depends_on_its_words_and_the_seed_alone(tmp_path: Path) -> None:
    sources = three(tmp_path)
    before = ids(materialize(Prompts(**sources), 0))
    shuffled = [*texts("new", 40), *reversed(texts("function", 60))]
    after = ids(materialize(Prompts(**{**sources, "function": source(tmp_path, "other", shuffled)}), 0))
    for split in SPLITS:
        assert set(before[split, "function"]) <= set(after[split, "function"])
        assert before[split, "utility"] == after[split, "utility"]
    assert ids(materialize(Prompts(**sources), 1)) != before


def test_a_role_with_a_source_of_its_own_leaves_the_shared_one_to_the_others(tmp_path: Path) -> None:
    own = source(tmp_path, "own", texts("own", 10))
    sets = materialize(Prompts(**three(tmp_path), test=KindSources(function=own)), 0)
    assert [p.text for p in sets["test", "function"]] == texts("own", 10)
    shared = [*sets["score", "function"], *sets["selection", "function"]]
    assert sorted(p.text for p in shared) == sorted(texts("function", 60))


def test_the_same_source_written_out_for_a_role_is_still_shared(tmp_path: Path) -> None:
    sources = three(tmp_path)
    written = Prompts(**sources, selection=KindSources(function=sources["function"]))
    assert ids(materialize(written, 0)) == ids(materialize(Prompts(**sources), 0))


def test_take_keeps_that_many_of_a_role_and_moves_few_of_them_when_rows_are_added(tmp_path: Path) -> None:
    sources = three(tmp_path, 300, take=20)
    sets = materialize(Prompts(**sources), 0)
    assert {len(prompts) for prompts in sets.values()} == {20}
    longer = source(tmp_path, "longer", texts("function", 330), take=20)
    again = materialize(Prompts(**{**sources, "function": longer}), 0)
    kept = {p.id for p in sets["score", "function"]} & {p.id for p in again["score", "function"]}
    assert len(kept) >= 14


def test_shares_decide_the_division_and_a_role_without_prompts_is_refused(tmp_path: Path) -> None:
    half = Prompts(**three(tmp_path, 400), split=Shares(score=0.8, selection=0.1, test=0.1))
    assert len(materialize(half, 0)["score", "function"]) > 280
    nothing = Prompts(**three(tmp_path), split=Shares(score=0.5, selection=0.5, test=0.0))
    with pytest.raises(InputError, match=r"prompts\.test\.function: no prompt is left .*larger share in"):
        materialize(nothing, 0)


def test_a_prompt_in_two_roles_is_refused_with_both_roles_and_its_id(tmp_path: Path) -> None:
    sources = three(tmp_path)
    clash = source(tmp_path, "clash", ["FUNCTION  question number 7", "something else"])
    with pytest.raises(InputError) as caught:
        materialize(Prompts(**{**sources, "lookalike": clash}, test=KindSources(lookalike=clash)), 0)
    assert "lookalike" in str(caught.value)
    with pytest.raises(InputError) as caught:
        materialize(Prompts(**sources, test=KindSources(utility=clash)), 0)
    message = str(caught.value)
    assert prompt_id((("user", "function question number 7"),), "") in message
    assert "prompts.test.utility share a prompt (ids " in message and ".function" in message
    assert "a prompt may serve one role only" in message


def test_many_shared_prompts_are_counted_and_the_first_five_named(tmp_path: Path) -> None:
    sources = three(tmp_path)
    same = source(tmp_path, "same", texts("function", 60))
    with pytest.raises(InputError) as caught:
        materialize(Prompts(**{**sources, "utility": same}), 0)
    assert "60 prompts" not in str(caught.value)
    assert str(caught.value).count(",") >= 5 and ", ...)" in str(caught.value)


def test_a_second_build_writes_the_same_bytes_wherever_the_files_lie(tmp_path: Path) -> None:
    folders = []
    for place in ("here", "far away/[there]"):
        home = tmp_path / place
        home.mkdir(parents=True)
        out = home / "out"
        out.mkdir()
        build(Prompts(**three(home)), 0, out)
        folders.append(out)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == sorted(file_name(split, kind) for split, kind in ROLES)
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_the_files_hold_what_was_asked_for_and_the_counts_say_so(tmp_path: Path) -> None:
    prompts = Prompts(**three(tmp_path))
    (tmp_path / "out").mkdir()
    counts = build(prompts, 0, tmp_path / "out")["rows"]
    for (split, kind), expected in materialize(prompts, 0).items():
        assert read_prompts(tmp_path / "out" / file_name(split, kind)) == expected
        assert counts[f"{split}.{kind}"] == len(expected)


def test_the_id_of_a_prompt_ignores_case_and_spacing_but_no_words_roles_or_prefix() -> None:
    same = {prompt_id((("user", text),), "") for text in ("Hello  World", "hello world\n", "ＨＥＬＬＯ WORLD")}
    assert len(same) == 1
    others = {
        prompt_id((("user", "hello worlds"),), ""),
        prompt_id((("system", "hello world"),), ""),
        prompt_id((("user", "hello"), ("user", "world")), ""),
        prompt_id((("user", "hello world"),), "He"),
    }
    assert len(others | same) == 5


def test_train_sets_are_built_for_taught_kinds_alone_and_overlap_with_nothing(tmp_path: Path) -> None:
    split = Shares(score=0.4, selection=0.2, test=0.2, train=0.2)
    prompts = Prompts(**three(tmp_path, 300), split=split)
    plain = materialize(prompts, 0)
    assert list(plain) == ROLES
    sets = materialize(prompts, 0, ["function"])
    assert list(sets) == [*ROLES, ("train", "function")]
    assert abs(len(sets["train", "function"]) / 300 - 0.2) < 0.08
    together = [p.text for (_, kind), members in sets.items() for p in members if kind == "function"]
    assert sorted(together) == sorted(texts("function", 300))
    # What no recipe learns from is left to the others.
    assert sum(len(plain[split, "utility"]) for split in SPLITS) == 300


def test_a_train_set_of_its_own_is_read_and_must_not_overlap(tmp_path: Path) -> None:
    lessons = source(tmp_path, "lessons", texts("lesson", 9))
    sets = materialize(Prompts(**three(tmp_path), train=KindSources(function=lessons)), 0, ["function"])
    assert [p.text for p in sets["train", "function"]] == texts("lesson", 9)
    clash = source(tmp_path, "clash", ["function question number 7"])
    with pytest.raises(InputError, match=r"prompts\.train\.function share a prompt"):
        materialize(Prompts(**three(tmp_path), train=KindSources(function=clash)), 0, ["function"])


def test_a_taught_kind_without_a_train_share_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"prompts\.train\.function: no prompt is left .* `prompts\.split`"):
        materialize(Prompts(**three(tmp_path)), 0, ["function"])


def test_a_list_of_sources_is_one_set_with_each_prompt_once_and_its_source_named(tmp_path: Path) -> None:
    first = source(tmp_path, "first", texts("one", 8))
    second = source(tmp_path, "second", [*texts("two", 5), "ONE question  number 3"], take=4)
    sets = materialize(Prompts(**three(tmp_path), test=KindSources(function=(first, second))), 0)
    members = sets["test", "function"]
    assert [p.source for p in members] == ["first.jsonl"] * 8 + ["second.jsonl"] * 4
    assert len({p.id for p in members}) == 12


def test_take_counts_what_a_source_adds_and_not_what_an_earlier_one_holds(tmp_path: Path) -> None:
    first = source(tmp_path, "first", texts("one", 8), take=2)
    second = source(tmp_path, "second", [*texts("one", 8), *texts("two", 3)], take=3)
    members = materialize(Prompts(**three(tmp_path), test=KindSources(function=(first, second))), 0)["test", "function"]
    assert [p.source for p in members] == ["first.jsonl"] * 2 + ["second.jsonl"] * 3
    assert sorted(p.text for p in members[2:]) == texts("two", 3)


def test_the_word_shared_adds_this_splits_part_of_the_scoring_source(tmp_path: Path) -> None:
    sources = three(tmp_path)
    alone = ids(materialize(Prompts(**sources), 0))
    other = source(tmp_path, "other", texts("elsewhere", 5))
    both = ids(materialize(Prompts(**sources, test=KindSources(function=("shared", other))), 0))
    assert both["test", "function"][:-5] == alone["test", "function"]
    assert both["score", "function"] == alone["score", "function"]
    assert ids(materialize(Prompts(**sources, test=KindSources(function="shared")), 0)) == alone


def test_a_scoring_list_is_shared_source_by_source(tmp_path: Path) -> None:
    few = source(tmp_path, "few", texts("few", 40), take=3)
    many = source(tmp_path, "many", texts("many", 40))
    sets = materialize(Prompts(**{**three(tmp_path), "function": (few, many)}), 0)
    for split in SPLITS:
        assert [p.source for p in sets[split, "function"]].count("few.jsonl") == 3


def test_a_prompt_of_the_scoring_part_in_a_list_beside_shared_is_refused(tmp_path: Path) -> None:
    sources = three(tmp_path)
    scoring = materialize(Prompts(**sources), 0)["score", "function"][0]
    clash = source(tmp_path, "clash", [scoring.text])
    with pytest.raises(InputError, match=r"prompts\.function and prompts\.test\.function share a prompt"):
        materialize(Prompts(**sources, test=KindSources(function=("shared", clash))), 0)


def test_choices_in_one_string_are_divided_where_a_separator_is_named(tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    row = {"question": "Which is a fruit?", "options": "A. stone\nB. pear\n", "answer": "B. pear"}
    path.write_text(json.dumps(row) + "\n")
    columns = {"text": "question", "choices": "options", "answers": "answer"}
    (whole,) = read_prompt_source(PromptSource(file=str(path), columns=columns), "key")
    assert whole.choices == ("A. stone\nB. pear\n",)
    divided = PromptSource(file=str(path), columns={**columns, "choices_separator": "\n"})
    (prompt,) = read_prompt_source(divided, "key")
    assert prompt.choices == ("A. stone", "B. pear")
    assert prompt.answers == ("B. pear",)
