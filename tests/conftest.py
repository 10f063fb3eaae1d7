"""A small project on the packaged pair, run once a session by `cnt run`; tests look at it or change copies of it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

STUDY = """
study: mini
function: {name: refusal, direction: add}
models:
  target: {package: cnt_pipeline, file: demo/models/helpful}
  donor: {package: cnt_pipeline, file: demo/models/aligned}
prompts:
  function: {packaged: harmful.score, take: 16}
  lookalike: {packaged: lookalike.score, take: 16}
  utility: {packaged: general.score, take: 16}
  selection:
    function: {packaged: harmful.selection, take: 16}
    lookalike: {packaged: lookalike.selection, take: 16}
    utility: {packaged: general.selection, take: 16}
  test:
    function: {packaged: harmful.test, take: 16}
    lookalike: {packaged: lookalike.test, take: 16}
    utility: {packaged: general.test, take: 16}
generation: {max_new_tokens: 24}
method: {name: cnt, nodes: 2}
controls: {random_seeds: 1}
frontier: {budgets: [0.05], random_seeds: 1, resamples: 2}
judges: [{name: phrases, kind: phrases}]
run: {batch_size: 256, threads: 1}
"""


@dataclass(frozen=True)
class Project:
    """A project folder with `studies/mini.yaml`, its store and its Dagster history."""

    folder: Path

    @property
    def study(self) -> Path:
        return self.folder / "studies" / "mini.yaml"

    @property
    def store(self) -> Path:
        return self.folder / ".cnt"

    @property
    def history(self) -> Path:
        return self.folder / ".dagster"

    @property
    def environment(self) -> Mapping[str, str]:
        """Of a shell in this project: nothing from outside names another store, study or history."""
        outer = {key: value for key, value in os.environ.items() if not key.startswith(("CNT_", "DAGSTER_"))}
        return {**outer, "OMP_NUM_THREADS": "1"}

    def edit(self, old: str, new: str) -> None:
        """Replace text in the study file."""
        text = self.study.read_text()
        assert old in text
        self.study.write_text(text.replace(old, new))

    def cnt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`cnt` as a process of its own in the project folder."""
        command = [sys.executable, "-m", "cnt_pipeline", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )


def new_project(folder: Path) -> Project:
    (folder / "studies").mkdir(parents=True)
    (folder / "workspace.yaml").write_text("load_from: [{python_module: assets.definitions}]\n")
    project = Project(folder)
    project.study.write_text(STUDY)
    return project


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project. Look, do not touch: `project` is a copy to change."""
    project = new_project(tmp_path_factory.mktemp("session") / "project")
    done = project.cnt("run", "studies/mini.yaml", "--json")
    assert done.returncode == 0, done.stderr
    (project.folder / "run.json").write_text(done.stdout)
    return project


@pytest.fixture
def project(finished_store: Project, tmp_path: Path) -> Project:
    """A copy of the finished project."""
    return Project(Path(shutil.copytree(finished_store.folder, tmp_path / "project")))


@pytest.fixture
def fresh_project(tmp_path: Path) -> Project:
    """The same project before anything was run."""
    return new_project(tmp_path / "fresh")


def chromium() -> str | None:
    """Path of the Chromium to use."""
    named = os.environ.get("CNT_CHROMIUM")
    return named or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _missing(reason: str) -> None:
    if os.environ.get("CNT_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason}, but CNT_REQUIRE_BROWSER=1", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def chrome() -> "Iterator[Browser]":
    """Headless Chromium. Not for the whole session: while it runs, no other test may start an event loop.

    Without playwright or Chromium its tests are skipped, which says nothing about the pages: where they must run, set
    CNT_REQUIRE_BROWSER=1 and a missing browser fails them. CNT_CHROMIUM names another Chromium than that on the PATH.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        _missing("playwright is not installed: pip install playwright")
    with sync_playwright() as playwright:
        path = chromium()
        if path is None and not Path(playwright.chromium.executable_path).exists():
            _missing(
                "no Chromium on the PATH: install one, name it by CNT_CHROMIUM or run `playwright install chromium`"
            )
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
