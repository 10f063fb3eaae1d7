"""A bench: the small study with its own store and the `cnt` command, called in this process or in one of its own."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.models.sources import package_path
from cnt_pipeline.store import Store
from tests.caching.conftest import Workshop, write_study

MODELS = {"target": "helpful", "donor": "aligned"}
_PROGRESS = re.compile(r"(built|hit  )  \w+/\S+ .*")
Tensors = dict[str, tuple[str, list[int], bytes]]


class Stream(io.TextIOBase):
    """Stands for a standard stream as long as the process lives, so that loggers may keep hold of it."""

    def __init__(self) -> None:
        self._written: list[str] = []

    def write(self, text: str) -> int:
        self._written.append(text)
        return len(text)

    def take(self) -> str:
        """What was written since the last time."""
        text = "".join(self._written)
        self._written.clear()
        return text


OUT, ERR = Stream(), Stream()


@dataclass
class Answer:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    @property
    def sentences(self) -> list[str]:
        """Lines of standard error that are neither a finished step nor the continuation of the line before."""
        return [
            line for line in self.err.splitlines() if line and not line.startswith("  ") and not _PROGRESS.match(line)
        ]


@dataclass
class Bench(Workshop):
    """A study to break: its prompt files lie beside it, its models are copied on demand."""

    call: Callable[[list[str]], Answer]
    store: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = self.store or str(self.root / "store")

    @property
    def store_folder(self) -> Path:
        return Path(self.store)

    def cnt(self, *words: str) -> Answer:
        """Call `cnt`; `{study}` and `{store}` in `words` stand for this bench's."""
        return self.call([word.format(study=self.study_file, store=self.store, root=self.root) for word in words])

    def cnt_process(self, *words: str) -> Answer:
        """As `cnt`, in a process of its own, as a user's shell starts it."""
        told = [word.format(study=self.study_file, store=self.store, root=self.root) for word in words]
        command = [str(Path(sys.executable).with_name("cnt")), *told]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", **self.environment},
            timeout=120,
            check=False,
        )
        return Answer(done.returncode, done.stdout, done.stderr)

    def own(self, which: str) -> Path:
        """A copy of the study's target or donor that the study then names."""
        folder = self.root / which
        if not folder.exists():
            shutil.copytree(package_path("cnt_pipeline", f"demo/models/{MODELS[which]}"), folder)
            self.put(f"models.{which}", {"path": which})
        return folder

    def put(self, key: str, value: Any) -> None:
        """Set a key of the study, written with dots; `...` removes it."""

        def change(document: dict[str, Any]) -> None:
            *blocks, last = key.split(".")
            place = document
            for block in blocks:
                place = place.setdefault(block, {})
            if value is ...:
                del place[last]
            else:
                place[last] = value

        self.edit(change)

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a prompt file."""
        return [json.loads(line) for line in (self.root / f"{name}.jsonl").read_text().splitlines()]

    def write_rows(self, name: str, rows: list[dict[str, Any]]) -> None:
        (self.root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def artifacts(self) -> set[str]:
        """Keys of the steps that the store holds under a final name."""
        return {manifest.key for manifest in Store(self.store).artifacts()}

    def leftovers(self) -> list[Path]:
        """Staging folders with something in them."""
        found = self.store_folder.glob("*/.*") if self.store_folder.is_dir() else ()
        return [path for path in found if path.parent.name != ".locks" and path.is_dir() and any(path.rglob("*"))]


def read_tensors(path: Path) -> Tensors:
    """Dtype, shape and bytes of every tensor of a safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header.pop("__metadata__", None)
    return {
        name: (
            entry["dtype"],
            entry["shape"],
            content[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]],
        )
        for name, entry in header.items()
    }


def write_tensors(path: Path, tensors: Tensors) -> None:
    header, data = {}, bytearray()
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def edit_json(path: Path, **keys: Any) -> None:
    """Set top-level keys of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


@pytest.fixture(scope="session")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One Dagster history for all runs of the session."""
    return tmp_path_factory.mktemp("dagster")


@pytest.fixture
def bench(tmp_path: Path, history: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An unbroken small study with an empty store."""
    from cnt_pipeline.cli import app

    monkeypatch.setenv("DAGSTER_HOME", str(history))
    monkeypatch.delenv("CNT_STORE", raising=False)
    monkeypatch.delenv("CNT_STUDIES", raising=False)
    monkeypatch.chdir(tmp_path)

    def call(words: list[str]) -> Answer:
        OUT.take(), ERR.take()
        with redirect_stdout(OUT), redirect_stderr(ERR), pytest.raises(SystemExit) as left:
            app(words)
        code = left.value.code
        return Answer(code if isinstance(code, int) else 0, OUT.take(), ERR.take())

    root = tmp_path / "bench"
    root.mkdir()
    return Bench(write_study(root).root, call)
