"""Digest of every stage's code. `python -m tests.caching.stage_digests` accepts the code as it stands.

Accept only a change that leaves what the stage computes as it was; otherwise bump the stage's VERSION first.
"""

import hashlib
import json
from pathlib import Path

from cnt_pipeline.measures import VERSION as MEASURES
from cnt_pipeline.pipeline.step import VERSIONS

ROOT = Path(__file__).parents[2] / "cnt_pipeline"
ACCEPTED = Path(__file__).with_suffix(".json")
CODE = (".py", ".sql", ".toml", ".j2")


def stage_versions() -> dict[str, int]:
    """Version of every stage, and of the measures that selection and evaluation share."""
    return {**VERSIONS, "measures": MEASURES}


def digest(stage: str) -> str:
    """SHA-256 over the names and contents of the stage's modules, its builders among them."""
    files = [path for path in (ROOT / stage).rglob("*") if path.suffix in CODE]
    builder = ROOT / "pipeline" / "builders" / f"{stage}.py"
    total = hashlib.sha256()
    for path in sorted([*files, *([builder] if builder.exists() else [])]):
        total.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def current() -> dict[str, dict[str, object]]:
    """Version and digest of every stage now."""
    return {stage: {"version": version, "digest": digest(stage)} for stage, version in stage_versions().items()}


if __name__ == "__main__":
    ACCEPTED.write_text(json.dumps(current(), indent=2) + "\n")
