"""What a run may be given: where artifacts are, and how the work is done on this machine."""

from typing import Any

import dagster as dg
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.store import Store
from cnt_pipeline.study.schema import Study
from pydantic import Field


class ArtifactStore(dg.ConfigurableResource[Store]):
    """The store that every step asks before it computes anything."""

    url: str = Field(description="folder or fsspec URL")

    def open(self) -> Store:
        return Store(self.url)


class StudySettings(dg.ConfigurableResource[Study]):
    """Machine settings that override the study's `run:` block. They are in no fingerprint: nothing is invalidated."""

    batch_size: int | None = Field(default=None, description="prompts a batch")
    threads: int | None = Field(default=None, description="torch threads")
    device: str | None = Field(default=None, description="cpu, cuda, cuda:1, mps")

    def applied_to(self, study: Study) -> Study:
        given = {
            key: value for key, value in dict(self).items() if key in type(study.run).model_fields and value is not None
        }
        return study.model_copy(update={"run": study.run.model_copy(update=given)})


def resources(store: str | None = None) -> dict[str, Any]:
    """Both resources by the names that the assets use; the store of the environment by default."""
    return {"store": ArtifactStore(url=store_url(store)), "settings": StudySettings()}
