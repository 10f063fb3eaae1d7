"""Another judge judges the stored answers again: no model of the study is asked."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cnt_pipeline.evaluations.schema import VERDICTS
from cnt_pipeline.pipeline.judge_steps import JUDGES
from tests.caching.conftest import Workshop

PHRASES: dict[str, Any] = {"name": "phrases", "kind": "phrases"}
OWN: dict[str, Any] = {"name": "own", "kind": "function", "function": "my_judge:judge"}
SOURCE = "def judge(prompt, answer):\n    return 'refused' if 'cannot' in answer else 'safe'\n"


def judges(workshop: Workshop, *blocks: dict[str, Any]) -> set[str]:
    workshop.edit(lambda study: study.update(judges=list(blocks)))
    return workshop.built()


def test_a_judge_builds_its_verdicts_and_nothing_above(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_judge.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert judges(workshop, PHRASES) == {"evaluations/judged_phrases", JUDGES, "reports/page"}
    assert judges(workshop, PHRASES, OWN) == {"evaluations/judged_own", JUDGES, "reports/page"}
    taken = workshop.run()
    rows = pl.read_parquet(taken["evaluations/judged_own"].built.artifact.path(VERDICTS))
    answers = 5 * 2 * 16  # five subjects, one draw of random neurons, two kinds of 16 test prompts
    assert len(rows) == answers and set(rows["judge"]) == {"own"}
    report = taken["reports/page"].built.artifact.path("report.html").read_text()
    assert "Where judges disagree" in report and "How certain" in report

    (tmp_path / "my_judge.py").write_text(SOURCE + "# said otherwise\n")
    assert "evaluations/judged_own" in workshop.built(), "another source is another judge"
    workshop.edit(lambda study: study.pop("judges"))
    assert workshop.built() == set(), "without judges the study is as it was"
