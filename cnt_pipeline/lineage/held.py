"""The models that a reviewer holds, as folders or GGUF files, and where else to get those that the study made."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from cnt_pipeline.errors import InputError, StoreError
from cnt_pipeline.lineage.environment import differences
from cnt_pipeline.lineage.models import folder_files, given_models, made_models, model_files, model_step
from cnt_pipeline.lineage.record import Broken, Bundle, Proof
from cnt_pipeline.models import adapter_files, gguf
from cnt_pipeline.models.sources import checked_gguf
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Manifest
from cnt_pipeline.store.publish import environment

_WEIGHTS = ".safetensors"
_MAKERS = ("gguf", "numpy", "safetensors", "torch", "transformers")
"""Packages that make a model folder of a GGUF file; transformers writes its version into the folder's config.json."""
_VALUE = 4
"""Bytes of one dequantised weight."""


@dataclass(frozen=True)
class Recorded:
    """What a bundle records of the model that its checkpoint was made from as `role`, target or donor."""

    bundle: Bundle
    manifests: Mapping[str, Manifest]
    role: str

    @property
    def step(self) -> str:
        """The step that described or made it.

        Raises:
            Broken: the checkpoint's step names none.
        """
        return model_step(self.bundle, self.role)

    @property
    def gguf(self) -> str | None:
        """SHA-256 of the GGUF file that it was made of; None for any other model."""
        return given_models(self.bundle, self.manifests).get(self.step, {}).get("")

    @property
    def source(self) -> str:
        """Where a reviewer gets it, as half a sentence."""
        if self.gguf is not None:
            return f"the {self.role} is the GGUF file with the SHA-256 {self.gguf}, or the folder that was made of it"
        if self.step not in made_models(self.manifests):
            return f"the {self.role} is the model that study.yaml names"
        made = f"the study made the {self.role}"
        if self.bundle.index.exported:
            return f"{made}, and `cnt replay` of a bundle of the study makes it again"
        folder = self.bundle.folder.absolute()
        place = f"{folder}.replay/models/{self.manifests[self.step].fingerprint}/model"
        return f"{made}: `cnt replay {folder}` makes it again, as {place}"

    def other(self, folder: Path) -> tuple[str, str | None, str | None] | None:
        """A file of the model in `folder` that is not as recorded, weights before others: its name and both digests.

        Raises:
            Broken: the description of the model is absent or unreadable.
            InputError: the folder holds no model.
        """
        recorded, found = model_files(self.bundle, self.step), folder_files(folder)
        for name in sorted(recorded.keys() | found.keys(), key=lambda name: (not name.endswith(_WEIGHTS), name)):
            if recorded.get(name) != found.get(name):
                return name, recorded.get(name), found.get(name)
        return None


@contextmanager
def held_model(model: Recorded, place: Path, proof: Proof) -> Iterator[Path]:
    """The folder of the model in `place`, once it is known to be the one that the bundle records.

    A GGUF file is dequantised as the study's step did, into a folder that is removed when the block ends; this alone
    needs torch. Settings that other versions of the packages write otherwise are unchecked, weights are not.

    Raises:
        Broken: `place` is another model.
        InputError: `place` holds no model, is a file where the study read none, or the package gguf is missing.
        StoreError: there is no room for the dequantised model.
    """
    if place.is_file():
        _same_gguf(model, place)
        with _dequantised(place) as folder:
            _same_values(model, place, folder, proof)
            yield folder
    else:
        _same_folder(model, place, proof)
        yield place


def _same_folder(model: Recorded, folder: Path, proof: Proof) -> None:
    if (folder / adapter_files.CONFIG).is_file() and not (folder / "config.json").is_file():  # a bundle holds one
        raise InputError(f"{folder} holds an adapter, but the whole {model.role} is compared: {model.source}")
    other = model.other(folder)
    if other is not None:
        name, *digests = other
        raise Broken(
            f"{folder / name}",
            f"{folder} is not the {model.role} of this bundle ({model.step}): {name} differs; {model.source}",
            *digests,
        )
    proof.proven.append(f"{folder} is the {model.role}: {_count(model)} files with the SHA-256 of {model.step}")


def _same_gguf(model: Recorded, file: Path) -> None:
    """The file is the one that the study's step read."""
    if model.gguf is None:
        raise InputError(
            f"{file} is a file, but the study read no GGUF file as its {model.role} ({model.step}): {model.source}"
        )
    found = model.bundle.sha256(checked_gguf(file))
    if found != model.gguf:
        raise Broken(
            f"{file}",
            f"{file} is not the GGUF file that {model.step} read, which had the SHA-256 {model.gguf[:12]}: it has "
            f"{found[:12]}",
            model.gguf,
            found,
        )


def _same_values(model: Recorded, file: Path, folder: Path, proof: Proof) -> None:
    """What the file was dequantised to in `folder` is what the study's step made of it."""
    other = model.other(folder)
    if other is None:
        proof.proven.append(
            f"{file} is the {model.role}: it was dequantised to {_count(model)} files with the SHA-256 of {model.step}"
        )
        return
    name, *digests = other
    versions = ", ".join(
        f"{each.name} {each.then or 'of an unrecorded version'} (here {each.now or 'none'})"
        for each in differences([model.manifests[model.step]], environment())
        if each.name in _MAKERS
    )
    said = f"{file} has the SHA-256 of the file that {model.step} read, but {name} differs when it is dequantised here"
    if versions:
        said += f"; the step had {versions}: install that and verify again"
    else:
        said += ", with the same versions of every package: that step did not make the recorded model of this file"
    if not versions or name.endswith(_WEIGHTS):
        raise Broken(f"{model.step}/{name}", said, *digests)
    proof.proven.append(f"{file} is the {model.role}: it was dequantised to weights with the SHA-256 of {model.step}")
    proof.unchecked.append(said)


def _count(model: Recorded) -> int:
    return len(model_files(model.bundle, model.step))


@contextmanager
def _dequantised(file: Path) -> Iterator[Path]:
    """A temporary folder with the model in a GGUF file."""
    needed = gguf.read_header(file).parameters * _VALUE
    try:
        holder = TemporaryDirectory(prefix="cnt-verify-")
    except OSError as error:
        raise _no_room(needed) from error
    with holder as folder:
        if shutil.disk_usage(folder).free < needed:
            raise _no_room(needed)
        gguf.dequantise(file, Path(folder) / "model")
        yield Path(folder) / "model"


def _no_room(needed: int) -> StoreError:
    return StoreError(
        f"the dequantised model needs {size_text(needed)} for the time of the proof, for which there is no temporary "
        "folder: let TMPDIR name one on a larger disk"
    )
