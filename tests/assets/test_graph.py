"""The studies as asset graphs: what Dagster knows before anything runs."""

import os
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from assets.binding import StudyAssets
from assets.checks import GATES
from cnt_pipeline.study.load import load_study
from tests.conftest import Project

ROOT = Path(__file__).parents[2]
SNAPSHOT = Path(__file__).with_name("quickstart_graph.txt")
Load = Callable[[Project], dg.Definitions]


def specs(path: Path) -> dict[str, dg.AssetSpec]:
    bound = StudyAssets(load_study(path))
    return {step.key: next(iter(asset.specs)) for step, asset in zip(bound.steps, bound.definitions, strict=True)}


def drawn(path: Path) -> str:
    """The graph as text: an asset a line, its inputs below it."""
    lines = []
    for spec in specs(path).values():
        lines.append(f"{spec.key.to_user_string()}  [{spec.group_name}: {', '.join(sorted(spec.kinds))}]")
        lines += [f"  <- {dep.asset_key.to_user_string()}" for dep in spec.deps]
    return "\n".join(lines) + "\n"


def test_the_quickstart_graph_is_as_recorded() -> None:
    graph = drawn(ROOT / "studies" / "quickstart.yaml")
    if os.environ.get("CNT_RECORD"):
        SNAPSHOT.write_text(graph)
    assert graph == SNAPSHOT.read_text(), "the graph changed: look at the difference, then record it with CNT_RECORD=1"


@pytest.mark.parametrize(
    ("old", "new", "changed"),
    [
        ("nodes: 2", "nodes: 3", {f"activation_caches/effect_path/{name}" for name in ("transfer", "misfire", "keep")}),
        ("{random_seeds: 1}", "{random_seeds: 2}", {"transplants/controls"}),
        ("budgets: [0.05]", "budgets: [0.1]", {"evaluations/frontier"}),
        ("batch_size: 256", "batch_size: 8", set()),
        ("study: mini", "study: mini # a remark", set()),
    ],
)
def test_an_edit_changes_the_code_version_of_the_steps_whose_slice_holds_it(
    fresh_project: Project, old: str, new: str, changed: set[str]
) -> None:
    before = {key: spec.code_version for key, spec in specs(fresh_project.study).items()}
    fresh_project.edit(old, new)
    after = {key: spec.code_version for key, spec in specs(fresh_project.study).items()}
    assert {key for key in before if before[key] != after[key]} == changed


def test_every_study_has_a_job_over_all_its_assets(fresh_project: Project, code_location: Load) -> None:
    (fresh_project.study.parent / "other-one.yml").write_text(
        fresh_project.study.read_text().replace("mini", "other-one")
    )
    location = code_location(fresh_project)
    for study, job in (("mini", "mini"), ("other-one", "other_one")):
        keys = location.resolve_job_def(job).asset_layer.selected_asset_keys
        assert len(keys) == 29
        assert {key.path[0] for key in keys} == {study}


def test_a_broken_study_says_so_and_leaves_the_others_alone(fresh_project: Project, code_location: Load) -> None:
    (fresh_project.study.parent / "broken.yaml").write_text("study: broken\nfunctoin: {name: refusal}\n")
    location = code_location(fresh_project)
    spec = location.resolve_asset_graph().get(dg.AssetKey(["broken", "study"]))
    assert "unknown key; did you mean 'function'?" in (spec.description or "")
    assert len(location.resolve_job_def("mini").asset_layer.selected_asset_keys) == 29


def test_two_studies_of_one_name_are_told_apart(fresh_project: Project, code_location: Load) -> None:
    (fresh_project.study.parent / "second.yaml").write_text(fresh_project.study.read_text())
    spec = code_location(fresh_project).resolve_asset_graph().get(dg.AssetKey(["second", "study"]))
    assert "another study file is called 'mini' too" in (spec.description or "")


def test_the_environment_can_name_other_studies(
    fresh_project: Project, code_location: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    code_location(fresh_project)
    monkeypatch.setenv("CNT_STUDIES", str(ROOT / "studies" / "quickstart.yaml"))
    from assets.definitions import definitions

    assert {job.name for job in definitions().jobs or ()} == {"quickstart"}


def test_automation_is_shipped_switched_off(fresh_project: Project, code_location: Load) -> None:
    sensor = code_location(fresh_project).resolve_sensor_def("keep_studies_fresh")
    assert sensor.default_status == dg.DefaultSensorStatus.STOPPED
    assert all(spec.automation_condition for spec in specs(fresh_project.study).values())


def test_model_heavy_steps_share_a_pool_under_the_daemon_and_none_in_process(fresh_project: Project) -> None:
    study = load_study(fresh_project.study)
    pools = {asset.op.name: asset.op.pool for asset in StudyAssets(study).definitions}
    assert pools["mini__completions_target_test"] == pools["mini__transplants_selection"] == "model"
    assert pools["mini__models_target"] is None
    assert {asset.op.pool for asset in StudyAssets(study, pooled=False).definitions} == {None}


def test_the_gates_are_checks_of_the_verdict_alone(fresh_project: Project) -> None:
    bound = StudyAssets(load_study(fresh_project.study))
    checks = {spec.name: spec.asset_key for asset in bound.definitions for spec in asset.check_specs}
    assert set(checks) == set(GATES)
    assert set(checks.values()) == {bound.key("evaluations/verdict")}


def test_compared_methods_are_assets_of_their_own_and_one_edits_at_a_time(fresh_project: Project) -> None:
    fresh_project.edit("controls:", "compare: {methods: [delta_norm, {method: random, seeds: [0, 1]}]}\ncontrols:")
    study = load_study(fresh_project.study)
    pools = {asset.op.name: asset.op.pool for asset in StudyAssets(study).definitions}
    for label in ("delta_norm", "random_s0", "random_s1"):
        assert pools[f"mini__transplants_compared_{label}"] == "model"
        assert pools[f"mini__completions_compared_{label}_test"] == "model"
    assert pools["mini__evaluations_leaderboard"] is pools["mini__reports_leaderboard"] is None
    groups = {spec.key.to_user_string(): spec.group_name for spec in specs(fresh_project.study).values()}
    assert groups["mini/transplants/compared_delta-norm"] == "transplants"
    assert groups["mini/reports/leaderboard"] == "reports"


def test_no_asset_module_postpones_its_annotations() -> None:
    """Dagster reads the annotation of `context` at run time."""
    assert [path for path in (ROOT / "assets").glob("*.py") if "import annotations" in path.read_text()] == []


def test_the_shipped_settings_are_the_projects() -> None:
    assert (ROOT / "dagster.yaml").read_text() == (ROOT / "assets" / "dagster.yaml").read_text()
