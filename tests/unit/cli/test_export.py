"""`cnt export`: a whole, verified copy of a transplant that passed, or one sentence and nothing written."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cnt_pipeline.commands import export
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.load import load_model, load_tokenizer, resolve_model
from cnt_pipeline.pipeline import outcome
from cnt_pipeline.pipeline.documents import RunDocument
from cnt_pipeline.store import BuildRequest, Store
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.study.load import load_study
from tests.conftest import Project

Cnt = Callable[..., Result]


def call(cnt: Cnt, project: Project, *flags: str) -> Result:
    return cnt(project, "export", "studies/mini.yaml", "--out", "out/model", *flags)


def assert_refused(result: Result, project: Project, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert all(word in result.stderr for word in words), result.stderr
    out = project.folder / "out"
    assert not out.exists() or not any(out.iterdir())


def assert_not_offered(closing_words: str) -> None:
    """The report is named, the checkpoint's place is not."""
    assert "report.html" in closing_words and "not for use" in closing_words
    assert not any(line.startswith("checkpoint") or line.endswith("/model") for line in closing_words.splitlines())


def test_the_exported_folder_is_the_checkpoint_with_card_patch_and_proof(cnt: Cnt, project: Project) -> None:
    document = RunDocument.model_validate_json((project.folder / "run.json").read_text())
    done = call(cnt, project)
    assert done.exit_code == 0, done.output
    out = project.folder / "out" / "model"
    stored = next(project.store.glob("transplants/*/model"))
    assert Path(document.transplant.path).parent.name == stored.parent.name
    for path in stored.iterdir():
        assert hash_file(path) == hash_file(out / path.name)
    beside = {
        "README.md", "patch.parquet", "inverse_patch.parquet", "neurons.parquet", "verification.json", "lineage",
    }  # fmt: skip
    assert {path.name for path in out.iterdir()} == {path.name for path in stored.iterdir()} | beside
    assert "mini" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir()] == ["model"]


def test_transformers_loads_the_exported_folder_and_revert_undoes_it(cnt: Cnt, project: Project) -> None:
    call(cnt, project)
    out = project.folder / "out" / "model"
    assert load_tokenizer(out).is_fast
    assert load_model(out).config.model_type == "llama"
    assert cnt(project, "revert", str(out), "--out", "restored").exit_code == 0
    target = resolve_model(load_study(project.study).models.target)  # type: ignore[arg-type]
    assert hash_file(project.folder / "restored" / "model.safetensors") == hash_file(target / "model.safetensors")


def test_the_exported_patch_makes_the_exported_checkpoint_from_the_target_alone(cnt: Cnt, project: Project) -> None:
    call(cnt, project)
    out, again = project.folder / "out" / "model", project.folder / "again"
    target = resolve_model(load_study(project.study).models.target)  # type: ignore[arg-type]
    patch = ("apply", str(out / "patch.parquet"), "--target", str(target), "--out", "again")
    done = cnt(project, *patch)
    assert done.exit_code == 0, done.output
    assert "again holds the checkpoint, bit for bit" in done.stdout
    stored = {path.name: hash_file(path) for path in next(project.store.glob("transplants/*/model")).iterdir()}
    made = {path.name: hash_file(path) for path in again.iterdir()}
    assert {name: digest for name, digest in made.items() if name != "inverse_patch.parquet"} == stored
    refused = cnt(project, *patch)
    assert (refused.exit_code, "not an empty folder" in refused.stderr) == (2, True)
    donor = resolve_model(load_study(project.study).models.donor)  # type: ignore[arg-type]
    refused = cnt(project, "apply", str(out / "patch.parquet"), "--target", str(donor), "--out", "third")
    assert refused.exit_code == 2
    assert "is not the target" in refused.stderr and "model.safetensors: model.layers." in refused.stderr
    assert not (project.folder / "third").exists()
    assert cnt(project, "revert", "again", "--out", "restored").exit_code == 0
    assert hash_file(project.folder / "restored" / "model.safetensors") == hash_file(target / "model.safetensors")


def test_an_empty_folder_is_filled_and_a_full_one_is_left_alone(cnt: Cnt, project: Project) -> None:
    out = project.folder / "out" / "model"
    out.mkdir(parents=True)
    assert call(cnt, project).exit_code == 0
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = call(cnt, project)
    assert again.exit_code == 2
    assert "not an empty folder" in again.stderr
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before


def test_a_file_in_the_place_is_refused(cnt: Cnt, project: Project) -> None:
    (project.folder / "taken").write_text("mine")
    refused = cnt(project, "export", "studies/mini.yaml", "--out", "taken")
    assert refused.exit_code == 2
    assert (project.folder / "taken").read_text() == "mine"


def test_a_study_that_changed_since_its_run_is_sent_to_cnt_run(cnt: Cnt, project: Project) -> None:
    project.edit("random_seeds: 1", "random_seeds: 2")
    assert_refused(call(cnt, project), project, 2, "not up to date", "cnt run studies/mini.yaml")


def test_a_study_that_never_ran_is_sent_to_cnt_run(cnt: Cnt, fresh_project: Project) -> None:
    assert_refused(call(cnt, fresh_project), fresh_project, 2, "not up to date", "cnt run studies/mini.yaml")


def test_failed_gates_are_exported_only_when_asked_for(
    cnt: Cnt, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = {"verdict": "fail", "sentence": "Over-refusal rises by 9.0 points."}
    monkeypatch.setattr(export, "verdict_of", lambda ready: {**outcome.verdict_of(ready), **failed})
    assert_refused(call(cnt, project), project, 1, "rises by 9.0 points", "--despite-failed-gates")
    done = call(cnt, project, "--despite-failed-gates")
    assert done.exit_code == 0
    assert "it failed quality gates: Over-refusal rises" in done.stdout


def test_a_file_damaged_behind_the_stores_back_is_found_while_copying(cnt: Cnt, project: Project) -> None:
    weights = next(project.store.glob("transplants/*/model/model.safetensors"))
    long_ago = 1_600_000_000_000_000_000
    os.utime(weights, ns=(long_ago, long_ago))
    assert cnt(project, "status", "studies/mini.yaml").exit_code == 0  # the store remembers the file's digest
    with weights.open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\x00\x01\x02\x03")
    os.utime(weights, ns=(long_ago, long_ago))
    assert_refused(call(cnt, project), project, 2, "is damaged", "nothing was exported")


def test_a_place_that_cannot_be_written_is_one_sentence(cnt: Cnt, project: Project) -> None:
    (project.folder / "file").write_text("")
    refused = cnt(project, "export", "studies/mini.yaml", "--out", "file/model")
    assert refused.exit_code == 2
    assert "cannot be written" in refused.stderr


def test_a_stress_test_reports_and_is_not_exported_whatever_its_study_says_later(cnt: Cnt, project: Project) -> None:
    project.edit("study: mini\n", "study: mini\npurpose: stress_test\n")
    assert_refused(call(cnt, project), project, 2, "stress test", "not exported")
    ran = project.cnt("run", "studies/mini.yaml")
    assert ran.returncode == 0, ran.stderr
    assert_not_offered(ran.stdout)
    assert len(list(project.store.glob("transplants/*/model/model.safetensors"))) == 2
    (passed,) = project.store.glob("transplants/*/patch.parquet")
    assert len(list(project.store.glob("transplants/*/inverse_patch.parquet"))) == 2
    (tested,) = (path.parent for path in project.store.glob("transplants/*/neurons.parquet") if
                 path.parent != passed.parent)  # fmt: skip
    assert not (tested / "patch.parquet").exists()
    assert_refused(call(cnt, project), project, 2, "stress test", "not exported")
    project.edit("purpose: stress_test\n", "")
    assert_refused(call(cnt, project), project, 2, "made by a stress test in this store")


def test_deleting_refusal_needs_a_stress_test_and_then_runs_to_its_report(cnt: Cnt, fresh_project: Project) -> None:
    fresh_project.edit("direction: add", "direction: delete")
    fresh_project.edit("target: {package: cnt_pipeline, file: demo/models/helpful}", "target: &t HELPFUL")
    fresh_project.edit("demo/models/aligned", "demo/models/helpful")
    fresh_project.edit("&t HELPFUL", "{package: cnt_pipeline, file: demo/models/aligned}")
    for command in (("check",), ("run",), ("plan",)):
        refused = cnt(fresh_project, *command, "studies/mini.yaml")
        assert refused.exit_code == 2
        assert len(refused.stderr.strip().splitlines()) == 1
        assert "purpose: stress_test" in refused.stderr
    assert not fresh_project.store.exists()
    fresh_project.edit("study: mini\n", "study: mini\npurpose: stress_test\n")
    ran = fresh_project.cnt("run", "studies/mini.yaml")
    assert ran.returncode in (0, 1), ran.stderr
    assert_not_offered(ran.stdout)
    assert_refused(call(cnt, fresh_project), fresh_project, 2, "stress test")


def test_a_deletion_of_refusal_is_known_by_the_selection_that_planned_it(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def writing(name: str) -> Callable[[Path], dict[str, str]]:
        def write(folder: Path) -> dict[str, str]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(name)
            return {}

        return write

    def made(key: str, slice_: dict[str, str], inputs: dict[str, str], name: str) -> object:
        request = BuildRequest(key, "transplants", 1, slice_, inputs, "x")
        return store.get_or_build(request, writing(name)).artifact

    for direction in ("add", "delete"):
        plan = made("transplants/selection", {"metric": "refusal", "direction": direction}, {}, "plan.parquet")
        inputs = {"plan": plan.digest_of(["plan.parquet"])}  # type: ignore[attr-defined]
        checkpoint = made("transplants/checkpoint", {"edit": "copy"}, inputs, "model/model.safetensors")
        if direction == "add":
            export.refuse_made_for_a_stress_test(store, checkpoint)  # type: ignore[arg-type]
        else:
            with pytest.raises(InputError, match="deletes refusal"):
                export.refuse_made_for_a_stress_test(store, checkpoint)  # type: ignore[arg-type]
