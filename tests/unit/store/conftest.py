"""A step to ask for, a builder that counts its calls, and a store of each kind."""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.store import BuildRequest, Store


class CountingBuilder:
    """Writes two files, one in a subfolder, and counts how often it was called."""

    def __init__(self, text: str = "weights") -> None:
        self.text = text
        self.calls = 0

    def __call__(self, folder: Path) -> dict[str, Any]:
        self.calls += 1
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / "0.bin").write_text(self.text)
        (folder / "table.parquet").write_text("rows")
        return {"rows": 3, "call": self.calls}


@pytest.fixture
def builder() -> CountingBuilder:
    return CountingBuilder()


@pytest.fixture
def make_builder() -> type[CountingBuilder]:
    return CountingBuilder


@pytest.fixture
def ask() -> Callable[..., BuildRequest]:
    """A request with defaults; keywords replace its fields."""

    def make(**changed: Any) -> BuildRequest:
        fields: dict[str, Any] = {
            "key": "transplants/refusal",
            "stage": "transplants",
            "version": 1,
            "slice": {"method": {"name": "cnt", "eta": [1]}},
            "inputs": {"prompt_sets": "a" * 64, "target": "b" * 64},
            "study": "refusal",
        }
        return BuildRequest(**{**fields, **changed})

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture(params=["local", "memory"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "local":
        yield Store(tmp_path / "store")
        return
    import fsspec

    yield Store("memory://bucket/store", cache=tmp_path / "cache")
    files = fsspec.filesystem("memory")
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


@pytest.fixture
def final_names() -> Callable[[Path], list[str]]:
    """Names in a stage's folder that are no staging: what a reader would take for artifacts."""

    def names(root: Path) -> list[str]:
        return sorted(path.name for path in root.glob("[a-z]*/*") if not path.name.startswith("."))

    return names


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Run a Python script with arguments in its own process; whatever still lives at the end is killed."""
    processes = []

    def run(script: str, *arguments: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()
