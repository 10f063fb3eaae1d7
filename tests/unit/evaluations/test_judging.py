"""Verdicts of stored answers, their shares, and where two judges disagree."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.judging import write_judges, write_verdicts
from cnt_pipeline.evaluations.schema import SHARES, VERDICTS
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.measures.judges.schema import Asked, Judgement, Verdict
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Kind

NO, YES = "I cannot help with that.", "Here is all you need."
PROMPTS: dict[Kind, list[Prompt]] = {
    "function": [
        Prompt(f"f{i}", (("user", f"function {i}"),), source="beside" if i == 9 else "set") for i in range(10)
    ],
    "lookalike": [Prompt(f"l{i}", (("user", f"lookalike {i}"),), source="set") for i in range(4)],
}


class Counting:
    """A guard's stand-in for counting: harmful where an answer has the word, undetermined where it says so."""

    tells: frozenset[Verdict] = frozenset({"harmful", "safe"})

    def __init__(self) -> None:
        self.asked: list[Asked] = []

    def judge(self, asked: Sequence[Asked], batch_size: int) -> list[Judgement]:
        self.asked += asked
        words: dict[str, Verdict] = {"need": "harmful", "unclear": "undetermined"}
        return [
            Judgement(next((verdict for word, verdict in words.items() if word in one.answer), "safe"), 0.98765)
            for one in asked
        ]


def said(refused: int, variant: int = 0, last: str = YES) -> dict[Kind, list[Completion]]:
    texts = [NO] * refused + [YES] * (9 - refused) + [last]
    return {
        "function": [Completion(f"f{i}", variant, text, (1,), True, 0.0) for i, text in enumerate(texts)],
        "lookalike": [Completion(f"l{i}", variant, YES if i else "", (1,), True, 0.0) for i in range(4)],
    }


SAID = {"target": said(0), "transplant": said(6, last="unclear to me"), "donor": said(9)}


@pytest.fixture
def judged(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / name for name in ("phrases", "guard")]
    for folder, judge in zip(folders, (PhraseJudge(), Counting()), strict=True):
        folder.mkdir()
        write_verdicts(folder.name, judge, PROMPTS, SAID, 4, folder)
    return folders


def test_every_answer_has_a_row_and_alike_answers_are_judged_once(tmp_path: Path) -> None:
    judge = Counting()
    document = write_verdicts("guard", judge, PROMPTS, {**SAID, "control_random": said(0, variant=1)}, 4, tmp_path)
    rows = pl.read_parquet(tmp_path / VERDICTS)
    assert len(rows) == 4 * 14 and set(rows["judge"]) == {"guard"}
    assert len(judge.asked) == len(set(judge.asked)) < 4 * 13
    assert document["counts"] == {
        verdict: rows.filter(verdict=verdict).height
        for verdict in ("harmful", "refused", "safe", "undetermined", "incoherent")
    }
    assert rows.filter(id="l0")["verdict"].to_list() == ["incoherent"] * 4
    assert set(rows.filter(id="l0")["confidence"]) == {None}
    assert rows.filter(subject="control_random", id="f0").select("variant", "verdict", "confidence").row(0) == (
        1, "harmful", 0.988,
    )  # fmt: skip


def test_shares_leave_out_what_no_gate_reads_and_add_up(judged: list[Path], tmp_path: Path) -> None:
    write_judges(judged, PROMPTS, ["beside"], 0, tmp_path)
    shares = pl.read_parquet(tmp_path / SHARES)
    found = shares.filter(judge="phrases", subject="transplant", kind="function", verdict="refused").row(0, named=True)
    assert (found["value"], found["n"]) == (pytest.approx(6 / 9), 9)
    assert (found["low"], found["high"]) == pytest.approx((0.3542, 0.8794), abs=1e-4)  # Wilson, 6 of 9
    sums = shares.group_by("judge", "subject", "kind").agg(pl.col("value").sum())
    assert sums["value"].to_list() == pytest.approx([1.0] * len(sums))


def test_two_judges_are_compared_on_what_both_tell(judged: list[Path], tmp_path: Path) -> None:
    document = write_judges(judged, PROMPTS, [], 0, tmp_path)
    (pair,) = document["pairs"]
    assert (pair["one"], pair["other"], pair["question"]) == ("phrases", "guard", "harmful")
    # 30 answers to function prompts, 15 of them refusals and one unclear; 9 coherent answers to look-alikes, which the
    # phrases call safe and this guard harmful.
    assert (pair["yes_yes"], pair["no_no"], pair["no_yes"], pair["yes_no"]) == (14, 15, 9, 0)
    assert pair["unjudged"] == 4, "three incoherent answers and the unclear one"
    assert pair["agreed"]["value"] == pytest.approx(29 / 38)


def test_one_judge_has_shares_and_no_pair(judged: list[Path], tmp_path: Path) -> None:
    document = write_judges(judged[:1], PROMPTS, [], 0, tmp_path)
    assert document["pairs"] == [] and [each["name"] for each in document["judges"]] == ["phrases"]


def test_a_judge_is_given_the_messages_before_the_last(tmp_path: Path) -> None:
    judge, turns = Counting(), (("user", "first"), ("assistant", "then"), ("user", "function 0"))
    prompts: dict[Kind, list[Prompt]] = {"function": [Prompt("f0", turns)], "lookalike": []}
    write_verdicts(
        "guard", judge, prompts, {"target": {"function": said(0)["function"][:1], "lookalike": []}}, 4, tmp_path
    )
    assert judge.asked == [Asked("function 0", YES, "function", before=turns[:-1])]
