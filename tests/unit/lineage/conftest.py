"""A real bundle and a real export of the finished project, signed with keys of their own."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from cnt_pipeline.commands.export import export_transplant
from cnt_pipeline.commands.lineage import bundle_study
from cnt_pipeline.lineage.keys import read_public_key, write_keys
from cnt_pipeline.lineage.verify import Given
from tests.conftest import Project

MODELS = Path(__file__).parents[3] / "cnt_pipeline" / "demo" / "models"
TARGET, DONOR = MODELS / "helpful", MODELS / "aligned"


@dataclass(frozen=True)
class Keys:
    """Private keys; each public key has its name and `.pub`."""

    folder: Path

    @property
    def statement(self) -> Path:
        return self.folder / "statement"

    @property
    def oms(self) -> Path:
        return self.folder / "oms"

    @property
    def given(self) -> Given:
        """What a reviewer with both public keys gives."""
        return Given(read_public_key(self.folder / "statement.pub"), self.folder / "oms.pub")


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    made = Keys(tmp_path_factory.mktemp("keys"))
    write_keys(made.statement)
    write_keys(made.oms, "p256")
    return made


@pytest.fixture(scope="session")
def made_bundle(finished_store: Project, keys: Keys, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with everything that a bundle can hold. Look, do not touch."""
    out = tmp_path_factory.mktemp("bundle") / "bundle"
    bundle_study(
        finished_store.study, out, str(finished_store.store), key=keys.statement, oms_key=keys.oms, weights=True,
        lineage=True, despite_failed_gates=False,
    )  # fmt: skip
    return out


@pytest.fixture
def bundle(made_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the bundle to change."""
    return Path(shutil.copytree(made_bundle, tmp_path / "bundle"))


@pytest.fixture
def exported(finished_store: Project, keys: Keys, tmp_path: Path) -> Path:
    """An exported checkpoint to change, its lineage signed."""
    out = tmp_path / "exported"
    export_transplant(finished_store.study, out, str(finished_store.store), False, keys.statement)
    return out


@pytest.fixture
def copied(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the module's own bundle, `evidence`, to tamper with."""
    return Path(shutil.copytree(request.getfixturevalue("evidence"), tmp_path / "bundle"))
