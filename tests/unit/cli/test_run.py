"""What `cnt run` promises to people, machines and shells."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from cnt_pipeline.commands import run as command
from cnt_pipeline.pipeline import outcome
from cnt_pipeline.pipeline.documents import RunDocument
from tests.conftest import Project

HEAVY = ("torch", "transformers", "polars", "duckdb", "datasets")


def modules_after(project: Project, *arguments: str) -> set[str]:
    """Modules that a `cnt` process has imported when it ends."""
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('MODULES', *sys.modules, file=sys.stderr))\n"
        f"sys.argv = ['cnt', *{list(arguments)!r}]\n"
        "from cnt_pipeline.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=project.folder,
        env=project.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.rsplit("MODULES", 1)[1].split())


def test_the_document_holds_every_step_metric_and_path(finished_store: Project) -> None:
    document = RunDocument.model_validate_json((finished_store.folder / "run.json").read_text())
    assert document.study == "mini"
    assert document.verdict == "pass"
    assert len(document.steps) == len({step.key for step in document.steps}) == 29
    assert {row.subject for row in document.metrics} == {
        "target", "donor", "transplant", "control:random", "control:largest_delta",
    }  # fmt: skip
    assert Path(document.report).is_file()
    assert (Path(document.transplant.path) / "model.safetensors").is_file()


def test_the_model_card_lies_beside_the_checkpoint(finished_store: Project) -> None:
    document = RunDocument.model_validate_json((finished_store.folder / "run.json").read_text())
    assert (Path(document.transplant.path).parent / "README.md").read_text().strip()


def test_a_second_run_is_all_hits_and_imports_no_heavy_library(project: Project) -> None:
    assert not modules_after(project, "run", "studies/mini.yaml").intersection(HEAVY)
    done = project.cnt("run", "studies/mini.yaml", "--json")
    document = RunDocument.model_validate_json(done.stdout)
    assert {step.state for step in document.steps} == {"hit"}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("status", "studies/mini.yaml"),
        ("plan", "studies/mini.yaml", "--json"),
        ("methods",),
        ("methods", "nlsr"),
    ],
)
def test_looking_imports_neither_dagster_nor_a_heavy_library(project: Project, words: tuple[str, ...]) -> None:
    assert not modules_after(project, *words).intersection({*HEAVY, "dagster"})


def test_without_json_the_table_the_checks_and_the_report_are_printed(project: Project) -> None:
    done = project.cnt("run", "studies/mini.yaml")
    assert done.returncode == 0
    for part in (
        "transplants/checkpoint",
        "refusal",
        "largest delta",
        "nothing differs from the target",
        "report.html",
    ):
        assert part in done.stdout
    assert len([line for line in done.stderr.splitlines() if line.startswith("hit")]) == 29


def test_a_failed_gate_exits_with_1_and_still_gives_the_document(
    finished_store: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = outcome.verdict_of
    monkeypatch.setattr(outcome, "verdict_of", lambda ready: {**judged(ready), "verdict": "fail"})
    monkeypatch.setenv("DAGSTER_HOME", str(finished_store.history))
    assert command.run_study(finished_store.study, str(finished_store.store), as_json=True) == 1
    assert RunDocument.model_validate_json(capsys.readouterr().out).verdict == "fail"


def test_an_inadmissible_donor_exits_with_1_one_sentence_and_a_failed_run(project: Project) -> None:
    project.edit("packaged: harmful.selection", "packaged: occupation.selection")
    done = project.cnt("run", "studies/mini.yaml", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("cnt: the donor is not admissible")
    assert "Traceback" not in done.stderr
    assert newest_run(project).status == dg.DagsterRunStatus.FAILURE
    assert last.removeprefix("cnt: ") in failure_of_newest_run(project)


def test_an_interrupt_exits_with_130_and_the_next_run_goes_on(fresh_project: Project) -> None:
    command = [sys.executable, "-m", "cnt_pipeline", "run", "studies/mini.yaml"]
    process = subprocess.Popen(
        command,
        cwd=fresh_project.folder,
        env=fresh_project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "completions/target/score" in line:
            break
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130
    assert rest.strip().splitlines()[-1].startswith("cnt: interrupted; finished steps are kept")
    status = json.loads(fresh_project.cnt("status", "studies/mini.yaml", "--json").stdout)
    assert "completions/target/score" in {step["key"] for step in status["steps"] if step["state"] == "cached"}


def test_a_killed_run_is_marked_as_failed_by_the_next(project: Project) -> None:
    with instance(project) as history:
        tags = {".dagster/cnt_host": os.uname().nodename, ".dagster/cnt_pid": "999999999"}
        run = history.create_run_for_job(empty_job, tags=tags, status=dg.DagsterRunStatus.STARTED)
    project.cnt("run", "studies/mini.yaml")
    with instance(project) as history:
        found = history.get_run_by_id(run.run_id)
        assert found is not None
        assert found.status == dg.DagsterRunStatus.FAILURE


@dg.job
def empty_job() -> None:
    pass


def instance(project: Project) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(project.history))


def newest_run(project: Project) -> dg.DagsterRun:
    with instance(project) as history:
        return history.get_runs(limit=1)[0]


def failure_of_newest_run(project: Project) -> str:
    run = newest_run(project)
    with instance(project) as history:
        events = [log.dagster_event for log in history.all_logs(run.run_id) if log.dagster_event]
    return "\n".join(str(event.event_specific_data) for event in events if event.is_step_failure)
