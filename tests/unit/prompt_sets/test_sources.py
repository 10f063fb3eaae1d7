"""Every kind of source gives the same rows; what cannot be read is refused in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.build import read_prompt_source
from cnt_pipeline.prompt_sets.schema import Prompt, read_prompts, write_prompts
from cnt_pipeline.prompt_sets.sources import PACKAGED, read_rows, source_digest
from cnt_pipeline.study.schema import Columns, PromptSource

ROWS: list[dict[str, Any]] = [
    {"text": "How tall is it?", "answers": ["Ten feet.", "3 m"], "kind": "a"},
    {"text": "¿Qué hora es? 日本語 👩‍🔬", "answers": [], "kind": "b"},
    {"text": "Line one\nline two", "answers": ["x"], "kind": "a"},
]


def lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def put(folder: Path, name: str, content: str | bytes) -> PromptSource:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return PromptSource(file=str(path))


def read(source: PromptSource, **changes: Any) -> list[Prompt]:
    return read_prompt_source(source.model_copy(update=changes), "prompts.function")


def refusal(source: PromptSource, **changes: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(source, **changes)
    message = str(caught.value)
    assert "\n" not in message
    return message


def parquet(folder: Path, rows: list[dict[str, Any]], name: str = "set.parquet") -> PromptSource:
    with (folder / name).open("wb") as file:
        pl.DataFrame(rows).write_parquet(file)
    return PromptSource(file=str(folder / name))


def every_source(folder: Path) -> dict[str, PromptSource]:
    nested = {"version": 1, "seeds": ROWS}
    return {
        "jsonl": put(folder, "set.jsonl", lines(ROWS)),
        "jsonl with windows line ends and a mark": put(
            folder, "windows.jsonl", b"\xef\xbb\xbf" + lines(ROWS).replace("}\n", "}\r\n").encode()
        ),
        "jsonl with empty lines": put(folder, "gaps.jsonl", "\n" + lines(ROWS).replace("}\n", "}\n\n")),
        "json": put(folder, "set.json", json.dumps(ROWS)),
        "json with key": put(folder, "keyed.json", json.dumps(nested)).model_copy(update={"rows": "seeds"}),
        "yaml": put(folder, "set.yaml", yaml.safe_dump(ROWS, allow_unicode=True)),
        "yaml with key": put(folder, "keyed.yml", yaml.safe_dump(nested)).model_copy(update={"rows": "seeds"}),
        "prompt file": put(folder, "set.prompt", yaml.safe_dump(ROWS)),
        "parquet": parquet(folder, ROWS),
        "parquet in a name with glob characters": parquet(folder, ROWS, "set[1]*.parquet"),
    }


@pytest.mark.parametrize("kind", ["jsonl", "json", "yaml", "prompt file", "parquet"])
def test_every_format_gives_the_same_prompts(tmp_path: Path, kind: str) -> None:
    sources = {name: source for name, source in every_source(tmp_path).items() if name.startswith(kind)}
    for name, source in sources.items():
        found = read(source)
        assert [p.text for p in found] == [row["text"] for row in ROWS], name
        assert [p.answers for p in found] == [("Ten feet.", "3 m"), (), ("x",)], name
        assert [p.row for p in found] == [0, 1, 2], name


def test_csv_is_read_with_quotes_commas_newlines_and_windows_line_ends(tmp_path: Path) -> None:
    text = 'text,answers\r\n"Say ""hi"", now",hello\r\n"two\nlines",\r\nplain,ok\r\n'
    for content in (text.encode(), b"\xef\xbb\xbf" + text.encode()):
        found = read(put(tmp_path, "set.csv", content))
        assert [(p.text, p.answers) for p in found] == [
            ('Say "hi", now', ("hello",)), ("two\nlines", ()), ("plain", ("ok",)),
        ]  # fmt: skip


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_unicode_line_separators_inside_json_text_do_not_end_a_row(tmp_path: Path, mark: str) -> None:
    source = put(tmp_path, "set.jsonl", json.dumps({"text": f"one{mark}two"}, ensure_ascii=False) + "\n")
    assert [p.text for p in read(source)] == [f"one{mark}two"]


def test_packaged_sets_and_files_in_packages_are_the_same_rows(tmp_path: Path) -> None:
    packaged = read(PromptSource(packaged="harmful.score"))
    in_package = read(PromptSource(package="cnt_pipeline", file="demo/prompts/harmful.score.jsonl"))
    local = read(PromptSource(file=str(PACKAGED / "harmful.score.jsonl")))
    assert len(packaged) > 20
    assert [p.id for p in packaged] == [p.id for p in in_package] == [p.id for p in local]
    assert {p.source for p in packaged} == {"packaged harmful.score"}


def test_columns_are_mapped_also_into_nested_objects(tmp_path: Path) -> None:
    rows = [
        {"q": {"body": "A?"}, "meta": {"gold": "yes", "options": ["yes", "no"]}, "a.b": "start"},
        {"q": {"body": "B?"}, "meta": {"gold": 4, "options": [1.5, 2]}, "a.b": None},
    ]
    columns = Columns(text="q.body", answers="meta.gold", choices="meta.options", prefix="a.b")
    for source in (put(tmp_path, "set.jsonl", lines(rows)), put(tmp_path, "set.yaml", yaml.safe_dump(rows))):
        found = read(source, columns=columns)
        assert [(p.text, p.answers, p.choices, p.prefix) for p in found] == [
            ("A?", ("yes",), ("yes", "no"), "start"), ("B?", ("4",), ("1.5", "2"), ""),
        ]  # fmt: skip


def test_a_list_of_plain_texts_is_a_list_of_prompts(tmp_path: Path) -> None:
    assert [p.text for p in read(put(tmp_path, "set.yaml", "- one\n- two\n"))] == ["one", "two"]


def test_conversations_are_kept_turn_by_turn(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"},
    ]  # fmt: skip
    for source in (
        put(tmp_path, "set.jsonl", lines([{"chat": turns}])),
        parquet(tmp_path, [{"chat": turns}]),
    ):
        (found,) = read(source, columns=Columns(messages="chat"))
        assert found.messages == tuple((turn["role"], turn["content"]) for turn in turns)
        assert found.text == "Bye"


@pytest.mark.parametrize(
    ("chat", "reason"),
    [
        ([], "has no conversation"),
        ("hello", "has no conversation"),
        ([{"role": "user"}], "without text `role` and `content`"),
        ([{"role": "user", "content": 3}], "without text `role` and `content`"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "must end with the user's"),
    ],
)
def test_a_conversation_that_is_none_is_refused(tmp_path: Path, chat: Any, reason: str) -> None:
    message = refusal(put(tmp_path, "set.jsonl", lines([{"chat": chat}])), columns=Columns(messages="chat"))
    assert reason in message
    assert message.startswith("prompts.function: row 1 of ")


def test_where_keeps_the_rows_with_these_values_also_of_nested_columns(tmp_path: Path) -> None:
    rows = [{"text": f"t{i}", "k": i % 2, "meta": {"lang": "en" if i < 3 else "de"}} for i in range(4)]
    source = put(tmp_path, "set.jsonl", lines(rows))
    assert [p.text for p in read(source, where={"k": 1})] == ["t1", "t3"]
    assert [p.text for p in read(source, where={"k": 1, "meta.lang": "de"})] == ["t3"]
    assert "has no column 'z' to filter by; it has k, meta, text" in refusal(source, where={"z": 1})
    assert "has no row that `where:` keeps" in refusal(source, where={"k": 5})


def test_repeats_are_dropped_whatever_their_case_spacing_and_unicode_form(tmp_path: Path) -> None:
    rows = [{"text": t} for t in ("Caf\u00e9  now?", "cafe\u0301 NOW?", " ｃａｆé now? ", "tea now?")]
    found = read(put(tmp_path, "set.jsonl", lines(rows)))
    assert [(p.text, p.row) for p in found] == [("Caf\u00e9  now?", 0), ("tea now?", 3)]


def test_empty_and_missing_answers_are_no_answers(tmp_path: Path) -> None:
    rows = '{"text":"a","answers":null}\n{"text":"b"}\n{"text":"c","answers":["",NaN,"x"]}\n'
    rows += '{"text":"d","answers":" "}\n'
    assert [p.answers for p in read(put(tmp_path, "set.jsonl", rows))] == [(), (), ("x",), ()]


FAULTS: dict[str, tuple[str, str | bytes, str]] = {
    "no JSON": ("a.jsonl", '{"text": "a"}\n{oops\n', "line 2 is not JSON"),
    "no object": ("a.jsonl", '["a"]\n', "line 1 is not a JSON object"),
    "no text column": ("a.jsonl", '{"prompt": "a"}\n', "has no column 'text' (it has prompt); map it with `columns:"),
    "null text": ("a.jsonl", '{"text": null}\n', "row 1 of"),
    "blank text": ("a.jsonl", '{"text": " \\n"}\n', "has an empty or non-text 'text'"),
    "number as text": ("a.jsonl", '{"text": 3}\n', "has an empty or non-text 'text'"),
    "half a character": ("a.jsonl", '{"text": "a\\ud800"}\n', "half of a surrogate pair"),
    "prefix of another type": ("a.jsonl", '{"text": "a", "prefix": 3}\n', "'prefix' that is not text"),
    "answer of another type": ("a.jsonl", '{"text": "a", "answers": {"b": 1}}\n', "neither text nor a list of texts"),
    "an empty choice": ("a.jsonl", '{"text": "a", "choices": ["", "b"]}\n', "which would always win"),
    "nothing": ("a.jsonl", "", "holds no rows"),
    "a header alone": ("a.csv", "text,answers\n", "holds no rows"),
    "a short row": ("a.csv", "answers,text\nx\n", "has an empty or non-text 'text'"),
    "a long row": ("a.csv", "text\na,b\n", "row 2 has more fields than the header"),
    "a column twice": ("a.csv", "text,text\na,b\n", "names a column twice"),
    "an open quote": ("a.csv", 'text\n"a\n', "is not CSV"),
    "another encoding": ("a.csv", "text\né\n".encode("latin-1"), "cannot be read"),
    "no Parquet": ("a.parquet", b"PAR1 and nothing else", "is not a readable Parquet file"),
    "no YAML": ("a.yaml", "a: [", "is not valid YAML"),
    "an impossible date": ("a.yaml", "- text: 2026-13-45\n", "cannot be read"),
    "no list": ("a.yaml", "a: 1\n", "name the list inside it with `rows:`"),
    "endless nesting": ("a.json", "[" * 100_000, "cannot be read"),
    "an unknown format": ("a.txt", "hello", "convert it to one of these"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, fault: str) -> None:
    name, content, reason = FAULTS[fault]
    assert reason in refusal(put(tmp_path, name, content))


def test_a_source_that_is_not_there_is_refused_with_what_to_do(tmp_path: Path) -> None:
    assert "correct `file:`" in refusal(PromptSource(file=str(tmp_path / "absent.jsonl")))
    assert "correct `file:`" in refusal(PromptSource(file=str(tmp_path)))
    assert "choose one of benign-general" in refusal(PromptSource(packaged="unheard-of"))
    assert "general.score" in refusal(PromptSource(packaged="unheard-of"))
    assert "not installed" in refusal(PromptSource(package="no-such-package-anywhere", file="a.jsonl"))
    keyed = put(tmp_path, "set.yaml", "seeds: []\n").model_copy(update={"rows": "prompts"})
    assert "has no key 'prompts' (it holds: seeds)" in refusal(keyed)


_HUB = """
import json, sys
from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.build import read_prompt_source
from cnt_pipeline.study.schema import PromptSource
for hub, subset in json.loads(sys.argv[1]):
    try:
        found = read_prompt_source(PromptSource(hub=hub, revision="a" * 40, subset=subset), "prompts.function")
        print(json.dumps([[p.text, p.answers, p.source] for p in found]))
    except InputError as error:
        print(json.dumps(str(error)))
"""


def test_hub_datasets_are_read_through_datasets_and_an_unreachable_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "org" / "set"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text(lines([{k: row[k] for k in ("text", "answers")} for row in ROWS]))
    asked = [[str(folder), "train"], [str(folder), "validation"], ["org/unreachable", "train"]]
    done = subprocess.run(
        [sys.executable, "-c", _HUB, json.dumps(asked)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    good, no_subset, unreachable = (json.loads(line) for line in done.stdout.splitlines()[-3:])
    assert [row[0] for row in good] == [row["text"] for row in ROWS]
    assert good[0][1] == ["Ten feet.", "3 m"]
    assert good[0][2] == f"{folder}@{'a' * 12} train"
    for message in (no_subset, unreachable):
        assert "cannot be loaded" in message and "check its name" in message and "\n" not in message


def test_the_digest_of_a_source_is_of_its_content_or_its_pinned_revision() -> None:
    digest = source_digest(PromptSource(packaged="harmful.score"), lambda path: f"digest of {path.name}")
    assert digest == "digest of harmful.score.jsonl"
    pinned = PromptSource(hub="org/set", revision="a" * 40, config="c", subset="test")
    assert source_digest(pinned, lambda path: "") == f"org/set@{'a' * 40}:c:test"


def test_what_is_written_is_read_back_unchanged(tmp_path: Path) -> None:
    prompts = [
        Prompt("0" * 16, (("system", "s"), ("user", "日本\x00\u2028")), "pre", ("a", "b"), ("c",), "set.jsonl", 3),
        Prompt("1" * 16, (("user", "x"),)),
    ]
    write_prompts(prompts, tmp_path / "p.parquet", "test", "utility")
    assert read_prompts(tmp_path / "p.parquet") == prompts
    frame = pl.read_parquet(tmp_path / "p.parquet")
    assert frame["text"].to_list() == ["日本\x00\u2028", "x"]
    assert set(frame["split"]) == {"test"} and set(frame["kind"]) == {"utility"}
    write_prompts([], tmp_path / "none.parquet", "test", "utility")
    assert read_prompts(tmp_path / "none.parquet") == []


def test_rows_come_whole_with_columns_that_nobody_asked_for(tmp_path: Path) -> None:
    assert read_rows(put(tmp_path, "set.jsonl", lines(ROWS))) == ROWS
