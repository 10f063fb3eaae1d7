"""`cnt compare`: the leaderboard's table, its page and its document, without building anything else."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cnt_pipeline.commands import compare
from cnt_pipeline.commands.compare import compare_methods
from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.compare_steps import LEADERBOARD, LEADERBOARD_PAGE
from cnt_pipeline.pipeline.documents import LeaderboardDocument
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.reports.leaderboard import write_leaderboard_page
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study
from tests.conftest import Project
from tests.unit.reports.test_leaderboard_page import document


@pytest.fixture
def comparing(fresh_project: Project) -> Project:
    """The small project with one method beside its own."""
    fresh_project.study.write_text(f"{fresh_project.study.read_text()}compare: {{methods: [delta_norm]}}\n")
    return fresh_project


@pytest.fixture
def taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Steps that the command took, of a chain whose leaderboard is written by hand."""
    keys: list[str] = []
    made = tmp_path / "made"
    made.mkdir()
    (made / "leaderboard.json").write_text(json.dumps(document()))

    class Chain:
        def __init__(self, study: Study, *_: Any) -> None:
            write_leaderboard_page(study.study, document(), study.accept, made)

        def take(self, key: str) -> None:
            keys.append(key)

        def artifact(self, key: str) -> SimpleNamespace:
            assert key in keys
            return SimpleNamespace(path=lambda name: made / name)

    monkeypatch.setattr(compare, "Chain", Chain)
    return keys


def run(project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], as_json: bool) -> str:
    monkeypatch.chdir(project.folder)
    assert compare_methods(project.study, None, as_json) == 0
    return capsys.readouterr().out


def before(keys: Sequence[str], first: str, second: str) -> bool:
    return keys.index(first) < keys.index(second)


def test_only_what_the_leaderboard_needs_is_taken(
    comparing: Project, taken: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(comparing, monkeypatch, capsys, as_json=False)
    everything = {step.key for step in steps_of(load_study(comparing.study))}
    assert taken[-1] == LEADERBOARD_PAGE and before(taken, LEADERBOARD, LEADERBOARD_PAGE)
    assert {"transplants/compared_delta-norm", "completions/compared_delta-norm/test"} <= set(taken)
    assert {"evaluations/frontier", "reports/page", "transplants/controls"} <= everything - set(taken)


def test_the_table_and_the_page_are_printed(
    comparing: Project, taken: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run(comparing, monkeypatch, capsys, as_json=False)
    lines = [line.split()[0] for line in text.splitlines() if line.split()]
    order = [lines.index(name) for name in ("Target", "Donor", "task-arithmetic", "nlsr", "fgsn")]
    assert order == sorted(order)
    assert "recovers most: 95.0 %" in text
    page = Path(text.strip().splitlines()[-1].removeprefix("leaderboard").strip())
    assert page.name == "leaderboard.html" and page.is_file()


def test_the_document_holds_every_row_with_its_standing(
    comparing: Project, taken: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = LeaderboardDocument.model_validate_json(run(comparing, monkeypatch, capsys, as_json=True))
    assert [row.name for row in found.rows] == [
        "target", "donor", "task-arithmetic", "transplant", "nlsr", "fgsn",
    ]  # fmt: skip
    rows = {row.name: row for row in found.rows}
    assert (rows["nlsr"].keeps_lookalikes, rows["nlsr"].keeps_utility) == (True, False)
    assert rows["target"].grade is None and rows["nlsr"].by_seed == [0.85, 0.9, 0.95]
    assert rows["fgsn"].metrics["refusal"].value == 0.4
    assert Path(found.page).is_file()


def test_a_study_without_methods_is_told_what_to_write(fresh_project: Project) -> None:
    with pytest.raises(StudyError, match=r"compare: the study names no methods") as refused:
        compare_methods(fresh_project.study, None, False)
    assert "`cnt methods`" in str(refused.value)
