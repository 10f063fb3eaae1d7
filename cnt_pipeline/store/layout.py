"""Where everything lies below the root of a store, as names with `/`, the same in a folder and in a bucket.

<stage>/<fingerprint>/               an artifact: its content files and manifest.json
<stage>/.<fingerprint>.building/     what a builder is writing or a killed one left; emptied before a build
<stage>/.<fingerprint>.resumable/    the same for a step that goes on where it was killed
<stage>/.<fingerprint>.removed/      an artifact on its way out
.heads/<study>/<step>.json           newest manifest of each step of each study
.locks/<stage>.<fingerprint>         held while that step is built
.digests.sqlite                      remembered file digests
"""

import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from cnt_pipeline.study.fingerprint import sha256_text

MANIFEST = "manifest.json"
HEADS = ".heads"
LOCKS = ".locks"
DIGESTS = ".digests.sqlite"

_STAGE = re.compile(r"[a-z][a-z0-9_]*")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_LEFTOVER = re.compile(r"\.([0-9a-f]{64})\.(building|resumable|removed)")
_LONGEST_NAME = 200


class Leftover(NamedTuple):
    """A folder that a killed process left beside the artifacts; `kind` is building, resumable or removed."""

    stage: str
    fingerprint: str
    kind: str

    @property
    def name(self) -> str:
        """Its name below the root."""
        return f"{self.stage}/.{self.fingerprint}.{self.kind}"


def is_stage(name: str) -> bool:
    """Whether `name` can be a stage's folder."""
    return _STAGE.fullmatch(name) is not None


def is_fingerprint(name: str) -> bool:
    """Whether `name` can be an artifact's folder."""
    return _FINGERPRINT.fullmatch(name) is not None


def leftover(stage: str, name: str) -> Leftover | None:
    """What the folder `name` of `stage` was left from, or None when it is something else."""
    match = _LEFTOVER.fullmatch(name)
    return Leftover(stage, match[1], match[2]) if match else None


def artifact(stage: str, fingerprint: str) -> str:
    """Folder of an artifact.

    Raises:
        ValueError: a name that could lie outside the store.
    """
    if not is_stage(stage) or not is_fingerprint(fingerprint):
        raise ValueError(f"no artifact can be called {stage}/{fingerprint}")
    return f"{stage}/{fingerprint}"


def staging(stage: str, fingerprint: str, resumable: bool) -> str:
    """Folder that a builder writes into."""
    return Leftover(stage, fingerprint, "resumable" if resumable else "building").name


def lock(stage: str, fingerprint: str) -> str:
    """Lock of one fingerprint."""
    return f"{LOCKS}/{stage}.{fingerprint}"


def head(study: str, key: str) -> str:
    """Memo of the newest manifest of the step `key` of `study`; steps may hold `/`."""
    return f"{HEADS}/{_flat(study)}/{_flat(key)}.json"


def short(fingerprint: str) -> str:
    """Enough of a fingerprint for people to tell two apart."""
    return fingerprint[:12]


def create_root(root: Path) -> None:
    """Make the store's folder; git is told to leave alone a folder made here, since checkpoints lie in it."""
    if root.is_dir():
        return
    root.mkdir(parents=True, exist_ok=True)
    (root / ".gitignore").write_text("*\n")


def _flat(name: str) -> str:
    """`name` as one file name, the same for the same name."""
    flat = quote(name, safe=" +,=@")
    return flat if len(flat) <= _LONGEST_NAME else f"{flat[: _LONGEST_NAME - 17]}-{sha256_text(name)[:16]}"
