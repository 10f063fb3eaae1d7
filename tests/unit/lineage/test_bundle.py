"""What a bundle holds and leaves out, and the commands around it."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from cnt_pipeline.commands.lineage import bundle_study
from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.keys import read_private_key, read_public_key, write_keys
from cnt_pipeline.lineage.oms import sign
from cnt_pipeline.lineage.record import dumps
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models.load import load_model
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study
from tests.conftest import Project
from tests.unit.lineage.conftest import DONOR, TARGET

STUDIES = Path(__file__).parents[3] / "studies"
WEIGHTS = "transplants/checkpoint/model/model.safetensors"
MODULES = """
import sys
from cnt_pipeline.cli import app
try:
    app(sys.argv[1:])
finally:
    print("imported:", *sorted({"torch", "transformers", "dagster"} & set(sys.modules)), file=sys.stderr)
"""


def make(project: Project, out: Path, weights: bool = True) -> Path:
    bundle_study(
        project.study, out, str(project.store), key=None, oms_key=None, weights=weights, lineage=False,
        despite_failed_gates=False,
    )  # fmt: skip
    return out


def test_a_bundle_holds_the_checkpoint_the_report_and_every_manifest_of_the_store(
    made_bundle: Path, finished_store: Project
) -> None:
    assert load_model((made_bundle / WEIGHTS).parent).config.model_type == "llama"
    stored = {manifest.key: manifest for manifest in Store(finished_store.store).artifacts()}
    written = {
        path.relative_to(made_bundle / "manifests").with_suffix("").as_posix(): json.loads(path.read_bytes())
        for path in (made_bundle / "manifests").rglob("*.json")
    }
    assert {key: manifest["digest"] for key, manifest in written.items()} == {
        key: manifest.digest for key, manifest in stored.items()
    }
    assert (made_bundle / "study.yaml").read_bytes() == finished_store.study.read_bytes()
    assert json.loads((made_bundle / "study.resolved.json").read_bytes())["method"] == {"name": "cnt", "nodes": 2}


def test_without_weights_their_digests_stay_and_a_checkpoint_held_elsewhere_is_recognised(
    finished_store: Project, exported: Path, tmp_path: Path
) -> None:
    bundle = make(finished_store, tmp_path / "light", weights=False)
    assert (
        not list(bundle.rglob("*.safetensors"))
        and not (bundle / "transplants/checkpoint/inverse_patch.parquet").exists()
    )
    assert any("weights were left out" in sentence for sentence in verify(bundle, Given()).unchecked)
    held = verify(bundle, Given(checkpoint=exported, target=TARGET, donor=DONOR))
    assert held.broken is None and any("only the declared neurons" in sentence for sentence in held.proven)
    with (exported / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    found = verify(bundle, Given(checkpoint=exported)).broken
    assert found is not None and found.file == "model.safetensors"


def test_a_stress_tests_weights_never_leave_the_store(project: Project, tmp_path: Path) -> None:
    project.edit("study: mini\n", "study: mini\npurpose: stress_test\n")
    ran = project.cnt("run", "studies/mini.yaml")
    assert ran.returncode == 0, ran.stderr
    bundle = make(project, tmp_path / "stress")
    assert not list(bundle.rglob("*.safetensors")) and not list(bundle.rglob("*patch.parquet"))
    assert verify(bundle, Given()).broken is None
    project.edit("purpose: stress_test\n", "")
    with pytest.raises(InputError, match="made by a stress test"):
        make(project, tmp_path / "renamed")
    assert not (tmp_path / "renamed").exists()


def test_a_study_that_changed_since_its_run_makes_no_bundle(project: Project, tmp_path: Path) -> None:
    project.edit("random_seeds: 1", "random_seeds: 2")
    with pytest.raises(InputError, match="not up to date"):
        make(project, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_private_key_is_its_owners_alone_and_is_never_overwritten(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "key")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert read_private_key(private).public_key() == read_public_key(public)
    before = private.read_bytes()
    with pytest.raises(InputError, match="not overwritten"):
        write_keys(tmp_path / "key")
    private.unlink()
    with pytest.raises(InputError, match=r"key\.pub exists"):
        write_keys(tmp_path / "key")
    assert b"PRIVATE KEY" in before and not private.exists()


def test_a_key_of_another_kind_is_refused_with_what_to_do(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "p256", "p256")
    with pytest.raises(InputError, match="not ed25519"):
        read_private_key(private)
    with pytest.raises(InputError, match="not ed25519"):
        read_public_key(public)
    with pytest.raises(InputError, match="kind p256"):
        sign(tmp_path, write_keys(tmp_path / "ed25519")[0])
    with pytest.raises(InputError, match="no private key"):
        read_private_key(public)


def test_verify_answers_by_exit_code_and_document_and_imports_neither_torch_nor_dagster(
    bundle: Path, fresh_project: Project, tmp_path: Path
) -> None:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", MODULES, "verify", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=fresh_project.environment, capture_output=True, text=True, check=False
        )

    schema = json.loads(fresh_project.cnt("schema", "verify").stdout)
    holds = call(str(bundle), "--json", "--target", str(TARGET), "--donor", str(DONOR))
    assert holds.returncode == 0, holds.stderr
    assert holds.stderr.splitlines()[-1] == "imported:"
    document = json.loads(holds.stdout)
    jsonschema.validate(document, schema)
    assert document["verdict"] == "holds" and document["unchecked"] and document["broken"] is None
    (bundle / "reports/page/card.md").write_text("safe\n")
    broken = call(str(bundle), "--json")
    assert broken.returncode == 1
    document = json.loads(broken.stdout)
    jsonschema.validate(document, schema)
    assert document["broken"]["file"] == "reports/page/card.md"
    wrong = call(str(tmp_path))
    assert wrong.returncode == 2 and "cnt bundle" in wrong.stderr


@pytest.mark.parametrize("study", sorted(STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_study_reads_back_from_its_resolved_form_to_the_same_steps(study: Path) -> None:
    written = load_study(study)
    resolved = Study.model_validate_json(dumps(written.model_dump(mode="json", by_alias=True, exclude_unset=True)))
    assert steps_of(resolved) == steps_of(written)
