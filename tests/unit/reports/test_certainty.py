"""How certain a report is, and who judges: from the stages' own documents to rows and sections of the page."""

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import polars as pl
import pytest

from cnt_pipeline.evaluations.judging import write_judges, write_verdicts
from cnt_pipeline.evaluations.schema import SAMPLES, SHARES, STATISTICS_TABLE, VERDICTS
from cnt_pipeline.evaluations.statistics import write_statistics
from cnt_pipeline.measures.judges.entry import FunctionJudge
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.reports.certainty import certainty_rows, p_value
from cnt_pipeline.reports.judges import disagreements, judged_tables, phrase_agreement_sentence
from cnt_pipeline.reports.material import Certainty, Judging, Material
from cnt_pipeline.reports.page import CARD, REPORT, write_page

MakeMaterial = Callable[..., Material]


@pytest.fixture
def certain(make_material: MakeMaterial, tmp_path: Path) -> Material:
    """Material with statistics of its own samples."""
    plain = make_material()
    plain.samples.write_parquet(tmp_path / SAMPLES)
    document = write_statistics(tmp_path, plain.function, plain.accept, 0, tmp_path)
    return make_material(certainty=Certainty(pl.read_parquet(tmp_path / STATISTICS_TABLE), document))


@pytest.fixture
def judged(make_material: MakeMaterial, tmp_path: Path) -> Material:
    """Material with two judges of its own completions."""
    plain, folders = make_material(), []
    judges = {"phrases": PhraseJudge(), "own": FunctionJudge("tests.unit.measures.judges.own:by_length")}
    for name, judge in judges.items():
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        write_verdicts(name, judge, plain.prompts, plain.said, 4, folders[-1])
    document = write_judges(folders, plain.prompts, (), 0, tmp_path)
    verdicts = pl.concat([pl.read_parquet(folder / VERDICTS) for folder in folders])
    return make_material(judging=Judging(pl.read_parquet(tmp_path / SHARES), document, verdicts))


def test_rows_say_verdict_difference_interval_and_p(certain: Material) -> None:
    rows = {(row.name, row.against): row for row in certainty_rows(certain)}
    assert set(rows) == {(m, a) for m in ("refusal", "over-refusal", "utility") for a in ("target", "donor")}
    came = rows["refusal", "target"]
    assert came.difference.replace("\u00a0", " ") == "+100.0 points"
    # Five prompts, all changed: McNemar's exact p is 2 / 32, three times that after Holm.
    assert (came.p, came.n, came.words, came.mde) == ("0.188", "5", "no difference shown", "–")


def test_the_page_shows_the_rule_beside_the_verdicts(certain: Material, tmp_path: Path) -> None:
    write_page(certain, tmp_path)
    page = (tmp_path / REPORT).read_text()
    assert "How certain" in page and "the whole 95 % interval lies within it" in page
    assert page.count("no difference shown") >= 6


def test_a_report_without_statistics_or_judges_has_neither_table(make_material: MakeMaterial, tmp_path: Path) -> None:
    write_page(make_material(), tmp_path)
    page = (tmp_path / REPORT).read_text()
    assert "How certain" not in page and "The study's judges" not in page


def test_every_report_and_card_prints_the_phrases_agreement(make_material: MakeMaterial, tmp_path: Path) -> None:
    write_page(make_material(), tmp_path)
    assert re.search(r"agree with them on \d+\W%", phrase_agreement_sentence())
    assert phrase_agreement_sentence() in unescape((tmp_path / REPORT).read_text())
    card = (tmp_path / CARD).read_text().replace("\\", "")
    assert phrase_agreement_sentence().replace("\u00a0", " ") in card


def test_judges_have_a_table_for_each_kind_and_a_row_for_every_two(judged: Material, tmp_path: Path) -> None:
    tables = judged_tables(judged)
    assert [len(rows) for _, rows in tables] == [10, 10]
    donor = next(row for row in tables[0][1] if (row.judge, row.subject) == ("phrases", "donor"))
    shown = [value.replace("\u00a0", " ") for value, *_ in donor.cells]
    assert shown == ["0.0 %", "100.0 %", "0.0 %", "0.0 %", "0.0 %"]
    assert [(row.one, row.other, row.question) for row in disagreements(judged)] == [
        ("phrases", "own", "harmful"), ("phrases", "own", "refused"),
    ]  # fmt: skip
    write_page(judged, tmp_path)
    page = (tmp_path / REPORT).read_text()
    assert "Where judges disagree" in page and "phrases tells harmful, refused and safe." in page


@pytest.mark.parametrize(("p", "shown"), [(0.0004, "< 0.001"), (0.001, "0.001"), (0.25, "0.250"), (1.0, "1.000")])
def test_a_p_value_is_never_shown_as_zero(p: float, shown: str) -> None:
    assert p_value(p) == shown
