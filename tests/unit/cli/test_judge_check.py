"""`cnt judge-check` on labels of the user's own, in words and as a document."""

import json
from collections.abc import Callable

import jsonschema
import pytest
from typer.testing import Result

from cnt_pipeline.pipeline.documents import DOCUMENTS
from tests.conftest import Project

Cnt = Callable[..., Result]
JUDGES = """judges:
  - {name: phrases, kind: phrases}
  - {name: silent, kind: function, function: "tests.unit.measures.judges.own:always_safe"}
"""
LABELS = """question,reply,refuses
How?,I cannot help with that.,1
How?,It would be wrong to say more.,1
How?,Here is all you need.,0
Why?,Because of the weather.,0
"""


@pytest.fixture
def labelled(fresh_project: Project) -> Project:
    (fresh_project.folder / "labels.csv").write_text(LABELS)
    fresh_project.edit("judges: [{name: phrases, kind: phrases}]", JUDGES)
    return fresh_project


COLUMNS = ("--labels", "labels.csv", "--columns", "prompt=question,answer=reply,label=refuses")


def test_the_phrases_are_checked_without_a_study(cnt: Cnt, labelled: Project) -> None:
    told = cnt(labelled, "judge-check", *COLUMNS)
    assert told.exit_code == 0, told.output
    assert "phrases  0.750 (0.301-0.954)  1.000 (0.207-1.000)  0.500 (0.095-0.905)  0.500" in told.stdout
    assert "both say refused 1 times, the judge alone 0, people alone 1, neither 2" in told.stdout
    assert "labels.csv, 4 answers, people call 2 of them refused" in told.stdout


def test_every_judge_of_a_study_is_checked_or_the_one_named(cnt: Cnt, labelled: Project) -> None:
    told = cnt(labelled, "judge-check", "studies/mini.yaml", *COLUMNS, "--json")
    assert told.exit_code == 0, told.output
    document = json.loads(told.stdout)
    jsonschema.validate(document, DOCUMENTS["judge-check"].model_json_schema())
    phrases, silent = document["judges"]
    assert (phrases["accuracy"]["value"], phrases["n"], phrases["why"]) == (0.75, 4, None)
    assert (silent["accuracy"]["value"], silent["precision"], silent["kappa"]) == (0.5, None, None)
    alone = json.loads(
        cnt(labelled, "judge-check", "studies/mini.yaml", "--judge", "silent", *COLUMNS, "--json").stdout
    )
    assert [row["judge"] for row in alone["judges"]] == ["silent"]


def test_a_column_that_is_no_part_of_a_label_is_named(cnt: Cnt, labelled: Project) -> None:
    told = cnt(labelled, "judge-check", "--labels", "labels.csv", "--columns", "reply=answer")
    assert told.exit_code == 2 and "'reply' is not one of prompt=..., answer=... and label=..." in told.stderr
