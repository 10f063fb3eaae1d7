"""A bundle as read: how its steps hang together, their manifests, and where its files lie."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from cnt_pipeline.errors import BrokenArtifactError, InputError
from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.digests import Digests
from cnt_pipeline.pipeline.chain import CARD, CARD_BESIDE_CHECKPOINT
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.store import FileRecord, Manifest

SCHEMA_VERSION = 1

Wiring = Mapping[str, Mapping[str, "Link"]]
"""For every step, its inputs by name."""


@dataclass(frozen=True)
class Link:
    """Files of an earlier step that a step read: names or patterns; the whole artifact where empty."""

    step: str
    files: tuple[str, ...]


class Broken(Exception):  # noqa: N818
    """A proof does not hold: which file, what was expected and found, and what it means, in one sentence."""

    def __init__(self, file: str, sentence: str, expected: str | None = None, found: str | None = None) -> None:
        super().__init__(sentence)
        self.file, self.expected, self.found = file, expected, found


@dataclass
class Proof:
    """What was found, a sentence each: `proven` and `unchecked` until the first that is `broken`."""

    study: str = ""
    index_digest: str = ""
    proven: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=list)
    broken: Broken | None = None


@dataclass(frozen=True)
class Index:
    """`bundle.json`. `weights` says whether the bundle was made with the checkpoint's weights."""

    study: str
    purpose: str
    exported: bool
    weights: bool
    created: str
    code: dict[str, str]
    steps: Wiring
    files: dict[str, FileRecord]
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The index as it is written."""
        return dumps(asdict(self))

    @classmethod
    def from_json(cls, text: bytes) -> "Index":
        """Read what `to_json` wrote.

        Raises:
            Broken: it is not what `to_json` writes.
            InputError: it was written by a later version of cnt_pipeline.
        """
        try:
            document = json.loads(text)
            version = document["schema_version"]
            if isinstance(version, int) and version > SCHEMA_VERSION:
                raise InputError(
                    f"the bundle was written by a later cnt_pipeline (bundle schema {version}, this one reads up to "
                    f"{SCHEMA_VERSION}): upgrade cnt_pipeline"
                )
            steps = {
                key: {name: Link(link["step"], tuple(link["files"])) for name, link in inputs.items()}
                for key, inputs in document["steps"].items()
            }
            files = {name: FileRecord(**record) for name, record in document["files"].items()}
            if not all(map(_is_inside, (*files, *steps))) or not {"version", "sha256"} <= document["code"].keys():
                raise ValueError("a name leads out of the folder, or the code is not named")
            return cls(**{**document, "steps": steps, "files": files})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise Broken(layout.INDEX, f"{layout.INDEX} is no readable index: it can prove nothing") from None


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `checkpoint` is the model folder that it speaks of, None where its weights were left out and
    no folder was named."""

    folder: Path
    index: Index
    checkpoint: Path | None
    digests: Digests = field(default_factory=Digests, repr=False, compare=False)

    def path(self, name: str) -> Path:
        """A file of the bundle's own."""
        return self.folder / name

    def sha256(self, path: Path) -> str:
        """SHA-256 of a file; of weights of the checkpoint, the tensors are hashed in the same pass.

        Raises:
            InputError: it cannot be read.
        """
        return self.digests.of_file(path, path.parent == self.checkpoint and path.suffix == ".safetensors")

    def place(self, key: str, name: str) -> Path | None:
        """Where a file of the step's artifact lies, None where it was left out."""
        if key == CHECKPOINT and name.startswith(layout.MODEL) and self.checkpoint is not None:
            return self.checkpoint / name.removeprefix(layout.MODEL)
        if self.index.exported and key == CHECKPOINT:
            return self.folder.parent / name
        if self.index.exported and (key, name) == (REPORT, CARD):
            return self.folder.parent / CARD_BESIDE_CHECKPOINT
        known = f"{key}/{name}" in self.index.files
        return self.folder / key / name if known else None

    def manifests(self) -> dict[str, Manifest]:
        """The manifest of every step, by key.

        Raises:
            Broken: one is absent, unreadable or altered.
        """
        found = {}
        for key in sorted(self.index.steps):
            name = layout.manifest_name(key)
            try:
                found[key] = Manifest.from_json(self.path(name).read_bytes())
            except FileNotFoundError:
                raise Broken(name, f"{name} is absent, so nothing proves what {key} was made from") from None
            except BrokenArtifactError as error:
                raise Broken(name, f"{name} is not the store's record of {key}: {error}") from None
            if not all(map(_is_inside, found[key].files)):
                raise Broken(name, f"{name} names files outside its artifact, which no step writes")
        return found


def open_bundle(path: Path, checkpoint: Path | None = None) -> Bundle:
    """The bundle in `path`, or that of an exported checkpoint; `checkpoint` names a model folder kept elsewhere.

    Raises:
        InputError: neither a bundle nor an exported checkpoint that carries one, or of a later version.
        Broken: its index cannot be read.
    """
    inside = path / layout.INSIDE_EXPORT
    folder = next((place for place in (path, inside) if (place / layout.INDEX).is_file()), None)
    if folder is None:
        raise InputError(
            f"{path} holds neither {layout.INDEX} nor {layout.INSIDE_EXPORT}/{layout.INDEX}: give a folder that "
            "`cnt bundle` or `cnt export` wrote"
        )
    if checkpoint is not None and not checkpoint.is_dir():
        raise InputError(f"{checkpoint} is not a folder: give the checkpoint's model folder")
    try:
        text = (folder / layout.INDEX).read_bytes()
    except OSError as error:
        raise InputError(f"{folder / layout.INDEX} cannot be read ({error.strerror}): mend its permissions") from None
    index = Index.from_json(text)
    if checkpoint is None:
        held = folder / CHECKPOINT / layout.MODEL
        checkpoint = folder.parent if index.exported else held if index.weights else None
    return Bundle(folder, index, checkpoint)


def wiring_of(steps: Iterable[Step]) -> dict[str, dict[str, Link]]:
    """What each step reads."""
    return {step.key: {name: Link(source.step, source.files) for name, source in step.inputs.items()} for step in steps}


def _is_inside(name: str) -> bool:
    """Whether a relative name stays in its folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not PurePosixPath(name).is_absolute() and ".." not in parts


def dumps(document: Any) -> str:
    """JSON as every document of a bundle is written: sorted, indented, one newline at its end."""
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
