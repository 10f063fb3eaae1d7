"""`cnt` in this process, for the commands that start nothing and load nothing."""

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from cnt_pipeline.cli import app
from tests.conftest import Project


@pytest.fixture
def cnt(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call as `cnt(project, "status", "studies/mini.yaml")`."""

    def call(project: Project, *arguments: str) -> Result:
        monkeypatch.chdir(project.folder)
        for name in ("CNT_STORE", "CNT_STUDIES", "DAGSTER_HOME"):
            monkeypatch.delenv(name, raising=False)
        return CliRunner().invoke(app, list(arguments))

    return call
