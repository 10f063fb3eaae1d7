"""Materializing: the store answers, Dagster is told."""

import json
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from assets.checks import GATES
from cnt_pipeline.pipeline.documents import RunDocument
from tests.conftest import Project

Load = Callable[[Project], dg.Definitions]
LARGEST_METADATA = 60_000
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@pytest.fixture
def materialize_all(code_location: Load) -> Callable[[Project], dg.ExecuteInProcessResult]:
    """What the UI's "Materialize all" does."""

    def run(project: Project) -> dg.ExecuteInProcessResult:
        job = code_location(project).resolve_job_def("mini")
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(instance=instance, run_config=QUIET, raise_on_error=False)

    return run


def materializations(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetMaterialization]:
    events = result.get_asset_materialization_events()
    return {e.materialization.asset_key.to_user_string(): e.materialization for e in events}


def test_materialize_all_on_a_finished_study_does_no_work_and_says_so(
    finished_store: Project, materialize_all: Callable[[Project], dg.ExecuteInProcessResult]
) -> None:
    result = materialize_all(finished_store)
    assert result.success
    made = materializations(result)
    assert len(made) == 29
    assert {each.metadata["cache"].value for each in made.values()} == {"hit"}
    digests = {step.digest for step in document(finished_store).steps}
    assert {(each.tags or {})["dagster/data_version"] for each in made.values()} == digests


def test_metadata_tells_columns_rows_and_best_neurons_and_stays_small(
    finished_store: Project, materialize_all: Callable[[Project], dg.ExecuteInProcessResult]
) -> None:
    made = materializations(materialize_all(finished_store))
    ranking = made["mini/neuron_rankings/path"].metadata
    assert {column.name for column in ranking["dagster/column_schema"].value.columns} >= {"layer", "family", "score"}
    assert ranking["dagster/row_count"].value == 3 * 6144
    assert [record.data["rank"] for record in ranking["top_neurons"].value.records] == list(range(1, 21))
    assert ranking["where"].value.startswith("![")
    frontier = made["mini/evaluations/frontier"].metadata
    assert frontier["frontier"].value.startswith("![")
    assert frontier["parquet"].value.endswith("frontier.parquet")
    assert {entry["series"] for entry in frontier["parameters_needed"].value["series"]} >= {"effect", "random"}
    assert made["mini/prompt_sets/roles"].metadata["rows"].value["test.function"] == 16
    assert made["mini/transplants/checkpoint"].metadata["dagster/uri"].value.startswith(str(finished_store.store))
    for key, each in made.items():
        assert sum(len(str(value.value)) for value in each.metadata.values()) < LARGEST_METADATA, key


def test_the_checks_judge_as_the_verdict_does(
    finished_store: Project, materialize_all: Callable[[Project], dg.ExecuteInProcessResult]
) -> None:
    verdict = json.loads(next(finished_store.store.glob("evaluations/*/verdict.json")).read_text())
    judged = {check["name"]: check["passed"] for check in verdict["checks"]}
    told = {e.check_name: e.passed for e in materialize_all(finished_store).get_asset_check_evaluations()}
    assert told == judged
    assert set(judged) == set(GATES)


def test_a_fault_is_the_failure_of_its_step_with_the_same_sentence(
    project: Project, materialize_all: Callable[[Project], dg.ExecuteInProcessResult]
) -> None:
    project.edit("{packaged: lookalike.test, take: 16}", "{packaged: harmful.selection}")
    result = materialize_all(project)
    assert not result.success
    failures = [event for event in result.all_events if event.is_step_failure]
    data: Any = failures[0].event_specific_data
    assert failures[0].step_key == "mini__prompt_sets_roles"
    assert data.user_failure_data.description.startswith("prompts.")


def test_one_asset_alone_needs_its_inputs_in_the_store(project: Project, code_location: Load) -> None:
    """Up to date they are found there; else the failure names the step to materialize too."""
    verdict = dg.AssetKey(["mini", "evaluations", "verdict"])

    def alone() -> dg.ExecuteInProcessResult:
        job = code_location(project).resolve_job_def("mini")
        with dg.DagsterInstance.ephemeral() as instance:
            return job.execute_in_process(
                instance=instance, run_config=QUIET, raise_on_error=False, asset_selection=[verdict]
            )

    assert alone().success
    project.edit("{random_seeds: 1}", "{random_seeds: 2}")
    result = alone()
    data: Any = next(event for event in result.all_events if event.is_step_failure).event_specific_data
    assert "materialize it too" in data.user_failure_data.description


def document(project: Project) -> RunDocument:
    return RunDocument.model_validate_json((project.folder / "run.json").read_text())
