"""`cnt donors`: a row for every candidate, whatever is wrong with another, and nothing computed twice."""

import shutil
from pathlib import Path

import pytest

from cnt_pipeline.models.sources import package_path
from cnt_pipeline.pipeline.documents import DonorsDocument
from tests.conftest import Project

MODELS = """models:
  target: {package: cnt_pipeline, file: demo/models/helpful}
  donor: {package: cnt_pipeline, file: demo/models/aligned}
  base: {package: cnt_pipeline, file: demo/models/base}
  twin: {path: twin}
  smaller: {path: smaller}
donors: [twin, base, smaller, donor]
"""
BUDGET = ("--budget", "0.12")


@pytest.fixture(scope="module")
def several(finished_store: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with four donors: good, weaker, the target's twin, and one of another size."""
    folder = tmp_path_factory.mktemp("donors") / "project"
    project = Project(Path(shutil.copytree(finished_store.folder, folder)))
    text = project.study.read_text()
    before, after = text.split("models:\n", 1)
    project.study.write_text(before + MODELS + "prompts:\n" + after.split("prompts:\n", 1)[1])
    shutil.copytree(package_path("cnt_pipeline", "demo/models/helpful"), project.study.parent / "twin")
    smaller(project.study.parent / "smaller")
    return project


def smaller(folder: Path) -> None:
    """A model of half the layers, with the target's tokenizer."""
    import torch
    import transformers

    source = package_path("cnt_pipeline", "demo/models/helpful")
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("model.safetensors"))
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(source, num_hidden_layers=2)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def test_every_donor_gets_its_row_and_the_best_comes_first(several: Project) -> None:
    done = several.cnt("donors", "studies/mini.yaml", "--json", *BUDGET)
    assert done.returncode == 0, done.stderr
    document = DonorsDocument.model_validate_json(done.stdout)
    lines = [line.split()[:2] for line in done.stderr.splitlines()]
    shared_with_the_run = ("completions/target/score", "completions/donor/score", "neuron_rankings/path")
    assert all(["hit", step] in lines for step in shared_with_the_run)
    rows = {row.name: row for row in document.donors}
    assert list(rows)[:2] == ["donor", "base"]
    assert document.best == "donor"
    assert document.target == 0
    best, weaker = rows["donor"].ntrr, rows["base"].ntrr
    assert best is not None and weaker is not None
    assert best.low <= best.value <= best.high
    assert best.value > 0.8 and best.value >= weaker.value
    assert rows["donor"].misfire == 0 and rows["donor"].utility == 1
    assert "not admissible" in (rows["twin"].why or "") and rows["twin"].ntrr is None
    assert "cannot exchange neurons" in (rows["smaller"].why or "")
    again = several.cnt("donors", "studies/mini.yaml", *BUDGET)
    assert again.returncode == 0
    assert {line.split()[0] for line in again.stderr.strip().splitlines()} == {"hit"}
    table = again.stdout
    assert table.index("donor ") < table.index("base ") < table.index("twin ")
    assert "best donor: donor" in table and "smaller: " in table and "layers" in table


def test_a_budget_too_small_for_any_donor_is_said(several: Project) -> None:
    done = several.cnt("donors", "studies/mini.yaml", "--budget", "0.0001")
    assert done.returncode == 0
    assert "no donor moves the function within 0.01%" in done.stdout


def test_without_any_usable_donor_the_exit_code_is_1(several: Project) -> None:
    text = several.study.read_text()
    try:
        several.edit("donors: [twin, base, smaller, donor]", "donors: [twin, smaller]")
        done = several.cnt("donors", "studies/mini.yaml")
        assert done.returncode == 1
        assert "none of these donors can be used" in done.stdout
        assert "Traceback" not in done.stderr
    finally:
        several.study.write_text(text)


@pytest.mark.parametrize(
    ("donors", "words"), [("[nobody]", "'nobody'"), ("[target]", "'target'"), ("[donor, donor]", "twice")]
)
def test_donors_that_are_no_donors_are_refused_in_one_sentence(fresh_project: Project, donors: str, words: str) -> None:
    fresh_project.study.write_text(f"{fresh_project.study.read_text()}donors: {donors}\n")
    refused = fresh_project.cnt("donors", "studies/mini.yaml")
    assert refused.returncode == 2
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "donors" in refused.stderr and words in refused.stderr


def test_bad_prompts_are_one_sentence_and_not_a_fault_of_each_donor(fresh_project: Project) -> None:
    fresh_project.edit("{packaged: harmful.score, take: 16}", "{file: nowhere.jsonl}")
    refused = fresh_project.cnt("donors", "studies/mini.yaml")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "nowhere.jsonl" in refused.stderr.strip().splitlines()[-1]
