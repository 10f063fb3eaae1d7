"""The code location of a project, loaded as Dagster loads it."""

from collections.abc import Callable

import dagster as dg
import pytest

from assets.definitions import definitions
from tests.conftest import Project


@pytest.fixture
def code_location(monkeypatch: pytest.MonkeyPatch) -> Callable[[Project], dg.Definitions]:
    """The definitions that `assets.definitions` gives in a project's folder."""

    def load(project: Project) -> dg.Definitions:
        for name in ("CNT_STORE", "CNT_STUDIES", "DAGSTER_HOME"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(project.folder)
        made = definitions()
        assert isinstance(made, dg.Definitions)
        return made

    return load
