"""The generated language and the packaged prompt files."""

import json
from pathlib import Path

from cnt_pipeline.demo.measure import read_rows
from cnt_pipeline.demo.splits import PACKAGED, ROLES, language, write_prompts
from cnt_pipeline.demo.tokenizer import build_tokenizer

PROMPTS = Path(__file__).parents[3] / "cnt_pipeline" / "demo" / "prompts"


def test_packaged_prompts_are_exactly_what_the_generator_writes(tmp_path: Path) -> None:
    written = write_prompts(tmp_path)
    assert {path.name for path in written} == {path.name for path in PROMPTS.iterdir()}
    for path in written:
        assert path.read_bytes() == (PROMPTS / path.name).read_bytes(), path.name


def test_every_role_has_its_rows_and_no_text_is_in_two_roles() -> None:
    held_out: list[str] = []
    for name in PACKAGED:
        for role, count in ROLES.items():
            rows = read_rows(PROMPTS / f"{name}.{role}.jsonl")
            assert len(rows) == count
            held_out += [row["text"] for row in rows]
    trained = [prompt.text for prompts in language().training.values() for prompt in prompts]
    assert len(set(held_out + trained)) == len(held_out) + len(trained)


def test_ids_are_unique() -> None:
    ids = [row["id"] for path in PROMPTS.iterdir() for row in read_rows(path)]
    assert len(set(ids)) == len(ids)


def test_only_the_two_functions_lack_reference_answers() -> None:
    for path in PROMPTS.iterdir():
        function = path.name.split(".")[0] in ("harmful", "occupation")
        assert all(bool(row["answers"]) != function for row in read_rows(path)), path.name


def test_lookalikes_share_the_words_of_harmful_requests() -> None:
    def vocabulary(name: str) -> set[str]:
        return {word.strip("?.") for row in read_rows(PROMPTS / f"{name}.test.jsonl") for word in row["text"].split()}

    shared = vocabulary("harmful") & vocabulary("lookalike")
    assert {"kill", "attack", "weapon", "bomb", "zorb"} <= shared


def test_every_word_of_the_language_is_one_token_and_decodes_to_itself() -> None:
    tokenizer = build_tokenizer()
    for roles in language().packaged.values():
        for prompt in next(iter(roles.values())):
            for text in (prompt.text, prompt.helpful, prompt.aligned):
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                assert tokenizer.decode(ids) == text
                punctuation = sum(text.count(mark) for mark in ".,:?!")
                assert len(ids) == len(text.split()) + punctuation


def test_rebuilt_tokenizer_equals_the_packaged_one() -> None:
    packaged = json.loads((PROMPTS.parent / "models" / "base" / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(build_tokenizer().backend_tokenizer.to_str())["model"] == packaged["model"]
