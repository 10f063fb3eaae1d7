"""The README's results: every figure is the store's, and an unfinished study is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.results_table import BEGIN, END, README, results, with_results
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from tests.conftest import Project


def test_the_table_holds_the_figures_of_the_run(finished_store: Project) -> None:
    text = results(load_study(finished_store.study), Store(str(finished_store.store)))
    document = json.loads((finished_store.folder / "run.json").read_text())
    transplant = document["transplant"]
    assert f"{transplant['neurons']:,} neurons" in text
    refused = next(m for m in document["metrics"] if (m["subject"], m["metric"]) == ("transplant", "refusal"))
    row = next(line for line in text.splitlines() if line.startswith("| refusal |"))
    assert f"{100 * refused['value']:.1f}" in row.split("|")[3]


def test_only_what_lies_between_the_marks_changes() -> None:
    assert with_results(f"a\n{BEGIN}\nold\n{END}\nb", ["new", "er"]) == f"a\n{BEGIN}\n\nnew\n\ner\n\n{END}\nb"


def test_the_readme_has_the_marks() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1


def test_an_unfinished_study_is_refused_and_nothing_is_written(finished_store: Project, tmp_path: Path) -> None:
    study = shutil.copy(finished_store.study, tmp_path / "mini.yaml")
    before = README.read_bytes()
    command = [sys.executable, "-m", "benchmarks.results_table", study, "--store", str(tmp_path / "empty")]
    done = subprocess.run(command, cwd=README.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "run `cnt run" in done.stderr
    assert README.read_bytes() == before
