"""`cnt` as a shell starts it: real processes in groups of their own, on one thread."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CNT = str(Path(sys.executable).with_name("cnt"))


@dataclass
class Shell:
    """Starts commands with one Dagster history; `store` is passed to each."""

    root: Path
    store: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "DAGSTER_HOME": str(self.root / "history"),
            "CNT_STORE": str(self.store),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """A command on its way; its group is its own, so that a signal to the group reaches nobody else."""
        return subprocess.Popen(
            [CNT, *words], env=self.environment, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, start_new_session=True,
        )  # fmt: skip

    def finish(self, *words: str) -> dict[str, Any]:
        """The document of a command that ends well."""
        process = self.start(*words)
        out, err = process.communicate(timeout=280)
        assert process.returncode == 0, err
        document: dict[str, Any] = json.loads(out)
        return document


def end(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    """Send `how` to the whole group; exit code and standard error."""
    os.killpg(process.pid, how)
    _, err = process.communicate(timeout=60)
    return process.returncode, err


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Shell]:
    """Makes a shell with a folder and a store of its own."""

    def make(name: str) -> Shell:
        root = tmp_path_factory.mktemp(name)
        return Shell(root, root / "store")

    return make
