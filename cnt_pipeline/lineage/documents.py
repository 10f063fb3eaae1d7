"""What `cnt verify` and `cnt replay` print with --json."""

from typing import Literal

from pydantic import Field

from cnt_pipeline.pipeline.document_parts import Document


class BrokenLink(Document):
    """The first thing that does not hold."""

    file: str = Field(description="file at fault, as named in the bundle or checkpoint")
    sentence: str = Field(description="what was expected, what was found and what it means")
    expected: str | None = Field(description="digest or key that was expected, where there is one")
    found: str | None = Field(description="digest or key that was found")


class VerifyDocument(Document):
    """How far the proof of a bundle or an exported checkpoint goes."""

    schema_version: Literal[1] = 1
    path: str
    study: str | None = Field(description="name of the study; null where the index cannot be read")
    verdict: Literal["holds", "broken"]
    index_sha256: str | None = Field(description="SHA-256 of bundle.json, which names every other file")
    proven: list[str] = Field(description="what was checked and holds, in order")
    unchecked: list[str] = Field(description="what could not be checked, and why")
    broken: BrokenLink | None = Field(description="null where everything that was checked holds")


class EnvironmentDifference(Document):
    """One part of the environment, then and now."""

    name: str = Field(description="python, a package, the processor ...")
    then: str | None = Field(description="in the bundle's run; null where it was not recorded")
    now: str | None
    grade: Literal["patch", "minor", "major", "hardware", "unknown"]


class ReplayedStep(Document):
    """One step of the replay."""

    key: str
    state: Literal["built", "hit", "from the bundle"] = Field(description="hit: it was in the store before")
    agrees: bool = Field(description="its content digest is the bundle's")
    digest: str
    recorded: str = Field(description="the bundle's content digest")
    differing: list[str] = Field(description="files that differ")


class ReplayDocument(Document):
    """Whether a study run again from its bundle gives the same artifacts."""

    schema_version: Literal[1] = 1
    study: str
    store: str
    environment: Literal["same", "patch", "minor", "major", "hardware", "unknown"] = Field(
        description="the largest difference"
    )
    differences: list[EnvironmentDifference]
    steps: list[ReplayedStep]
    agrees: bool = Field(description="every step's digest is the bundle's")


LINEAGE_DOCUMENTS: dict[str, type[Document]] = {"verify": VerifyDocument, "replay": ReplayDocument}
"""Documents by the name that `cnt schema` takes."""
