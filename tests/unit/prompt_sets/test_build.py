"""Nine roles from any sources: no prompt in two of them, divided by content alone, the same bytes every time."""

import json
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.build import Role, build, materialize
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
