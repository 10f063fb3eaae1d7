"""Read rows from every kind of source a study may name. Nothing here knows what the rows will be used for."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.sources import package_path, quiet_hub
from cnt_pipeline.study.schema import PromptSource

Row = dict[str, Any]
_ENCODING = "utf-8-sig"
"""UTF-8 with or without the mark that some programs put first."""
PACKAGED = Path(__file__).parent.parent / "demo" / "prompts"
"""The demonstration's prompt sets."""
SETS = Path(__file__).parent / "packaged"
"""Prompt sets for studies of real models."""


def describe(source: PromptSource) -> str:
    """The source in a few words, for messages."""
    if source.packaged:
        return f"packaged {source.packaged}"
    if source.hub:
        return f"{source.hub}@{(source.revision or '')[:12]} {source.subset}"
    return f"{source.package}/{source.file}" if source.package else str(source.file)


def label(source: PromptSource) -> str:
    """The source for the `source` column: as `describe`, but a local file by its name, wherever it lies."""
    local = source.file and not source.package
    return Path(str(source.file)).name if local else describe(source)


def locate(source: PromptSource) -> Path:
    """The local file of a source that is not on the hub.

    Raises:
        InputError: the file, the packaged set or the installed package does not exist.
    """
    if source.packaged:
        known = {p.name.removesuffix(".jsonl"): p for folder in (PACKAGED, SETS) for p in folder.glob("*.jsonl")}
        if source.packaged not in known:
            names = ", ".join(sorted(known))
            raise InputError(f"there is no packaged prompt set '{source.packaged}'; choose one of {names}")
        return known[source.packaged]
    if source.package:
        return package_path(source.package, str(source.file))
    path = Path(str(source.file))
    if not path.is_file():
        raise InputError(f"prompt file {path} does not exist; correct `file:` in the study")
    return path


def source_digest(source: PromptSource, file_digest: Callable[[Path], str]) -> str:
    """Digest of the source's content: of the file's bytes, or the pinned revision of a hub dataset."""
    if source.hub:
        return f"{source.hub}@{source.revision}:{source.config}:{source.subset}"
    return file_digest(locate(source))


def read_rows(source: PromptSource) -> list[Row]:
    """All rows of the source, filtered by `where`.

    Raises:
        InputError: unreadable or malformed, or `where` names a column that no row has or leaves no row.
    """
    if source.hub:
        rows = _read_hub(source)
    else:
        path = locate(source)
        reader = _READERS.get(path.suffix.lower())
        if reader is None:
            raise InputError(f"{path} is none of {', '.join(sorted(_READERS))}; convert it to one of these")
        try:
            rows = reader(path, source)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(
                f"prompt file {path} cannot be read ({_first_line(error)}); check the file and its rights"
            ) from None
    for column in source.where:
        if rows and not any(has(row, column) for row in rows):
            raise InputError(f"{describe(source)} has no column '{column}' to filter by; it has {_columns(rows)}")
    kept = [row for row in rows if all(value_of(row, k) == v for k, v in source.where.items())]
    if rows and not kept:
        raise InputError(f"{describe(source)} has no row that `where:` keeps; correct its values")
    return kept


def value_of(row: Row, column: str) -> Any:
    """The value under a column name; a dotted name reaches into nested objects. None where absent."""
    value = _look_up(row, column)
    return None if value is _ABSENT else value


def has(row: Row, column: str) -> bool:
    """Whether the row has that column, be it empty."""
    return _look_up(row, column) is not _ABSENT


_ABSENT = object()


def _look_up(row: Row, column: str) -> Any:
    if column in row:
        return row[column]
    value: Any = row
    for part in column.split("."):
        value = value.get(part, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _columns(rows: list[Row]) -> str:
    return ", ".join(sorted({str(key) for row in rows[:100] for key in row})) or "none"


def _read_jsonl(path: Path, source: PromptSource) -> list[Row]:
    rows = []
    # not splitlines(): JSON text may hold line separators such as U+2028 as they are
    for number, line in enumerate(path.read_text(encoding=_ENCODING).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number} is not JSON ({error.msg}); correct or remove the line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number} is not a JSON object; each line needs named columns")
        rows.append(row)
    return rows


def _read_csv(path: Path, source: PromptSource) -> list[Row]:
    with path.open(encoding=_ENCODING, newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            header = reader.fieldnames or ()
            rows = list(reader)
        except csv.Error as error:
            raise InputError(
                f"{path}, line {reader.reader.line_num} is not CSV ({error}); correct the quoting"
            ) from None
    if len(set(header)) < len(header):
        raise InputError(f"{path} names a column twice in its header; rename one of them")
    for number, row in enumerate(rows, 2):
        if None in row:
            raise InputError(f"{path}, row {number} has more fields than the header; quote its commas")
    return rows


def _read_parquet(path: Path, source: PromptSource) -> list[Row]:
    import polars as pl

    try:
        return pl.read_parquet(path, glob=False).to_dicts()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path} is not a readable Parquet file ({_first_line(error)}); write it again") from None


def _read_yaml(path: Path, source: PromptSource) -> list[Row]:
    import yaml

    try:
        document = yaml.load(path.read_text(encoding=_ENCODING), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML ({_first_line(error)}); correct it") from None
    return _rows_of(document, path, source)


def _read_json(path: Path, source: PromptSource) -> list[Row]:
    try:
        document = json.loads(path.read_text(encoding=_ENCODING))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno} is not JSON ({error.msg}); correct it") from None
    return _rows_of(document, path, source)


def _rows_of(document: Any, path: Path, source: PromptSource) -> list[Row]:
    if source.rows is not None:
        if not isinstance(document, dict) or source.rows not in document:
            held = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
            raise InputError(f"{path} has no key '{source.rows}' (it holds: {held}); correct `rows:`")
        document = document[source.rows]
    if not isinstance(document, list):
        raise InputError(f"{path} is not a list of prompts; name the list inside it with `rows:`")
    return [row if isinstance(row, dict) else {source.columns.text: row} for row in document]


_READERS: dict[str, Callable[[Path, PromptSource], list[Row]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".prompt": _read_yaml,
    ".json": _read_json,
}


def _read_hub(source: PromptSource) -> list[Row]:
    import datasets

    datasets.disable_progress_bars()
    try:
        with quiet_hub():
            table = datasets.load_dataset(source.hub, source.config, split=source.subset, revision=source.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"the dataset {source.hub} at {source.revision} cannot be loaded ({_first_line(error)}); check its name, "
            "`config:` and `subset:`, and that the hub or its local cache is reachable"
        ) from None
    return [dict(row) for row in table]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
