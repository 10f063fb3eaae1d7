"""A judge beside people's labels; the record of the phrase families is of the present phrases."""

from pathlib import Path

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations import judge_check
from cnt_pipeline.evaluations.judge_check import COLUMNS, Labels, check_judge, packaged_labels, read_labels
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.measures.judges.record import phrase_agreement, phrases_digest
from cnt_pipeline.measures.judges.schema import Asked, Judgement, Verdict
from cnt_pipeline.measures.phrases import PHRASES_VERSION

NO, YES = "I cannot help with that.", "Here is all you need."
REMEDY = "run `python -m benchmarks.phrase_agreement`"


def test_the_record_is_of_the_present_phrases() -> None:
    record = phrase_agreement()
    assert record["phrases_version"] == PHRASES_VERSION, REMEDY
    assert record["phrases_sha256"] == phrases_digest(), REMEDY
    assert len(record["digest"]) == 64 and record["n"] == sum(record["confusion"].values())


def test_measuring_anew_gives_the_record() -> None:
    try:
        labels = packaged_labels()
    except InputError:
        pytest.skip("the labelled refusals (pyrit) are not installed")
    record = dict(phrase_agreement())
    package, _, _ = (record.pop(key) for key in ("package", "phrases_version", "phrases_sha256"))
    if labels.digest != record["digest"]:
        pytest.skip(f"the labels are not those of {package}")
    assert check_judge(PhraseJudge(), labels, "refused", 7) == record


def test_without_the_package_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_check, "PACKAGE", "no_package_of_this_name")
    with pytest.raises(InputError, match=r"pip install --no-deps pyrit==1\.1\.0"):
        packaged_labels()


def labelled(folder: Path, text: str, name: str = "labels.csv") -> Labels:
    (folder / name).write_text(text)
    return read_labels([folder / name], {"prompt": "p", "answer": "a", "label": "y"}, name)


def test_figures_are_those_of_the_confusion_table(tmp_path: Path) -> None:
    rows = [(NO, "1"), (NO, "true"), (NO, "No"), (YES, "refused"), (YES, "0"), ("?", "1"), ("", "0"), (YES, "False")]
    labels = labelled(tmp_path, "# a remark\n# another\np,a,y\n" + "".join(f'q,"{a}",{y}\n' for a, y in rows))
    found = check_judge(PhraseJudge(), labels, "refused", 3)
    assert found["confusion"] == {"yes_yes": 2, "yes_no": 1, "no_yes": 2, "no_no": 3}
    assert (found["n"], found["undetermined"], found["incoherent"]) == (8, 0, 2)
    assert (found["accuracy"]["value"], found["accuracy"]["n"]) == (5 / 8, 8)
    assert found["precision"]["value"] == pytest.approx(2 / 3) and found["recall"]["value"] == 0.5
    assert found["kappa"]["value"] == pytest.approx((5 / 8 - 0.5) / 0.5)


class Unsure:
    tells: frozenset[Verdict] = frozenset({"harmful", "safe"})

    def judge(self, asked: list[Asked], batch_size: int) -> list[Judgement]:
        return [Judgement("undetermined" if one.answer == YES else "harmful") for one in asked]


def test_what_a_judge_cannot_tell_is_not_asked_and_what_it_cannot_judge_is_counted(tmp_path: Path) -> None:
    labels = labelled(tmp_path, f"p,a,y\nq,{YES},harmful\nq,{NO},safe\nq,{NO},harmful\n")
    with pytest.raises(InputError, match="tells harmful from safe, and the labels say what is refused"):
        check_judge(Unsure(), labels, "refused", 1)  # type: ignore[arg-type]
    found = check_judge(Unsure(), labels, "harmful", 1)  # type: ignore[arg-type]
    assert (found["n"], found["undetermined"], found["accuracy"]["value"]) == (2, 1, 0.5)
    assert found["kappa"] is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p,a,y\nq,r,perhaps\n", "row 1 has the label 'perhaps'"),
        ("p,answer,y\nq,r,1\n", "no column 'a', only p, answer, y"),
        ("p,a,y\n", "holds no labelled answer"),
        ("", "only none"),
    ],
)
def test_labels_that_cannot_be_read_are_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        labelled(tmp_path, text)


def test_a_label_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as labels"):
        read_labels([tmp_path / "absent.csv"], COLUMNS, "absent.csv")


def test_the_same_labels_have_the_same_digest_wherever_they_lie(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    text = f"p,a,y\nq,{NO},1\n"
    first, second = labelled(tmp_path, text), labelled(tmp_path / "other", text)
    assert first.digest == second.digest != labelled(tmp_path, text + f"q,{YES},0\n").digest
