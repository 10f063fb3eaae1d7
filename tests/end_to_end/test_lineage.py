"""From a run to a folder that someone else checks and runs again, without the prompts' source and the first store."""

import json
import shutil
from pathlib import Path

import pytest

from cnt_pipeline.prompt_sets.sources import PACKAGED
from tests.conftest import Project, new_project


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose harmful prompts came from a file that is gone, as is the store."""
    project = new_project(tmp_path_factory.mktemp("bundled") / "project")
    shutil.copyfile(PACKAGED / "harmful.score.jsonl", project.folder / "harmful.jsonl")
    project.edit("{packaged: harmful.score, take: 16}", "{file: ../harmful.jsonl, take: 16}")
    for words in (
        ("run", "studies/mini.yaml", "--json"),
        ("keygen", "key"),
        ("bundle", "studies/mini.yaml", "--out", "bundle", "--key", "key"),
    ):
        done = project.cnt(*words)
        assert done.returncode == 0, done.stderr
    (project.folder / "harmful.jsonl").unlink()
    shutil.rmtree(project.store)
    return project.folder / "bundle"


def test_the_bundle_alone_gives_every_artifact_again(bundled: Path) -> None:
    elsewhere = Project(bundled.parent)
    replayed = elsewhere.cnt("replay", "bundle", "--json")
    assert replayed.returncode == 0, replayed.stderr
    document = json.loads(replayed.stdout)
    assert document["agrees"] and document["environment"] == "same", document["differences"]
    states = {step["key"]: step["state"] for step in document["steps"]}
    assert [key for key, state in states.items() if state == "from the bundle"] == ["prompt_sets/roles"]
    assert set(states.values()) == {"built", "from the bundle"}
    assert states.keys() == {
        path.relative_to(bundled / "manifests").with_suffix("").as_posix()
        for path in (bundled / "manifests").rglob("*.json")
    }
    report = "reports/page/report.html"
    made = next((bundled.parent / "bundle.replay").glob("reports/*/report.html"))
    assert made.read_bytes() == (bundled / report).read_bytes()


def test_a_broken_bundle_is_not_replayed(bundled: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundled, tmp_path / "bundle"))
    (copy / "prompt_sets/roles/score.function.parquet").write_bytes(b"")
    refused = Project(tmp_path).cnt("replay", "bundle")
    assert refused.returncode == 2
    assert "score.function.parquet" in refused.stderr and not (tmp_path / "bundle.replay").exists()
