"""Task files of lm-evaluation-harness: what they read, checked before anything is loaded. Does not import lm_eval."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from cnt_pipeline.errors import InputError
from cnt_pipeline.study.block import is_commit
from cnt_pipeline.study.schema import Part, PromptSource

_LOCAL = ("json", "csv", "parquet", "text")
"""Readers of `datasets` that read local files."""


def read_task(path: Path) -> dict[str, Any]:
    """The task in `path`, its data files as absolute paths.

    A file that brings code (`!function`) or other files (`include`) is refused: no digest would cover them.

    Raises:
        InputError: no such file, no task in it, or data that can move.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"the task file {path} does not exist; correct `task:` in the suite") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the task file {path} cannot be read ({error}); check the file and its rights") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"the task file {path} is not plain YAML ({said}); a task that calls functions is named by its name"
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("task"), str) or "dataset_path" not in document:
        raise InputError(f"{path} is no task of lm-evaluation-harness: it needs `task:` and `dataset_path:`")
    if "include" in document:
        raise InputError(f"{path} includes another file; write its lines out, so that one digest covers the task")
    kwargs = document.get("dataset_kwargs") or {}
    if document["dataset_path"] in _LOCAL:
        files = kwargs.get("data_files")
        if not files:
            raise InputError(f"{path} reads local data but names none: add `dataset_kwargs: {{data_files: ...}}`")
        kwargs = {**kwargs, "data_files": _absolute(files, path.resolve().parent)}
    elif not is_commit(kwargs.get("revision")):
        raise InputError(
            f"{path} reads the hub dataset {document['dataset_path']}, which can move: add `dataset_kwargs: "
            "{{revision: ...}}` with its full 40-digit commit hash"
        )
    return {**document, "dataset_kwargs": kwargs}


def task_sources(part: Part) -> Iterator[PromptSource]:
    """The files that a task reads, the task file among them, for the digest; none for a task by its name."""
    if not part.is_task_file:
        return
    path = Path(str(part.task))
    task = read_task(path)
    yield PromptSource(file=str(path))
    if task["dataset_path"] in _LOCAL:
        yield from (PromptSource(file=file) for file in _listed(task["dataset_kwargs"]["data_files"]))


def _absolute(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {split: _absolute(each, folder) for split, each in files.items()}
    if isinstance(files, list):
        return [_absolute(each, folder) for each in files]
    return str(folder / Path(str(files)).expanduser())


def _listed(files: Any) -> Iterator[str]:
    if isinstance(files, dict):
        files = [files[split] for split in sorted(files)]
    if isinstance(files, list):
        for each in files:
            yield from _listed(each)
    else:
        yield str(files)
