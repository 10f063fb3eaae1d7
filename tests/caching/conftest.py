"""A small study on local copies of the packaged prompts, and one finished run of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.pipeline.run import Taken, take
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.sources import PACKAGED
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.load import load_study

ROWS = {"score": 12, "selection": 12, "test": 16}
SETS = {"function": "harmful", "lookalike": "lookalike", "utility": "general"}


@dataclass
class Workshop:
    """A study file, its prompt files and a store, all in one folder that a test may change."""

    root: Path

    @property
    def study_file(self) -> Path:
        return self.root / "study.yaml"

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Apply `change` to the study's document and write it back."""
        document = yaml.safe_load(self.study_file.read_text())
        change(document)
        self.study_file.write_text(yaml.safe_dump(document, sort_keys=False))

    def run(self) -> dict[str, Taken]:
        """Take every step; the answers by key."""
        study, store = load_study(self.study_file), Store(self.root / "store")
        models = ModelPool(study)
        ready: dict[str, Artifact] = {}
        answers: dict[str, Taken] = {}
        for step in steps_of(study):
            answers[step.key] = take(study, step, store, ready, models)
            ready[step.key] = answers[step.key].built.artifact
        return answers

    def built(self) -> set[str]:
        """Keys of the steps that a run had to build."""
        return {key for key, taken in self.run().items() if not taken.built.hit}


def write_study(root: Path) -> Workshop:
    prompts: dict[str, Any] = {"selection": {}, "test": {}}
    for kind, name in SETS.items():
        for split, count in ROWS.items():
            lines = (PACKAGED / f"{name}.{split}.jsonl").read_text().splitlines()[:count]
            (root / f"{kind}.{split}.jsonl").write_text("\n".join(lines) + "\n")
            place = prompts if split == "score" else prompts[split]
            place[kind] = {"file": f"{kind}.{split}.jsonl"}
    document = {
        "study": "small",
        "function": {"name": "refusal", "direction": "add"},
        "models": {
            "target": {"package": "cnt_pipeline", "file": "demo/models/helpful"},
            "donor": {"package": "cnt_pipeline", "file": "demo/models/aligned"},
        },
        "prompts": prompts,
        "generation": {"max_new_tokens": 20},
        "method": {"name": "cnt", "nodes": 2, "lambda": [0.0], "aim": 0.9},
        "controls": {"random_seeds": 1},
        "frontier": {"budgets": [0.05], "random_seeds": 1, "resamples": 2},
        "run": {"batch_size": 64, "threads": 1},
    }
    (root / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return Workshop(root)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workshop, dict[str, str]]:
    """A finished run and the content digest of every step; tests copy it."""
    workshop = write_study(tmp_path_factory.mktemp("finished"))
    digests = {key: taken.built.artifact.digest for key, taken in workshop.run().items()}
    return workshop, digests


@pytest.fixture
def workshop(finished: tuple[Workshop, dict[str, str]], tmp_path: Path) -> Workshop:
    """A copy of the finished run to change."""
    root = tmp_path / "copy"
    shutil.copytree(finished[0].root, root)
    return Workshop(root)


@pytest.fixture
def change_row() -> Callable[[Path, int, str], None]:
    """Replace the text of one row of a JSONL prompt file."""

    def change(path: Path, number: int, text: str) -> None:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows[number]["text"] = text
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return change
