"""One `architectures/*.toml` as Python: the sizes it finds in config.json, the layouts it describes.

Format of a table: `model_types` (values of config.json's `model_type`), `stored` (`out_in` for torch Linear,
`in_out` for transformers' Conv1D), `ignored` (tensors that are known to be mere buffers), `optional_prefix`
(what some checkpoints leave out of their tensor names), `[config]` (where each size is kept), `[families]`
(how many neurons a layer has of each), `[[matrix]]` (a stored matrix, the families on its neuron axis in
order, and whether that order repeats once per head), `[others]` (tensors without neurons), `[units]`
(families that share an index), `[tied_names]`, `[refused]` (model types that need other treatment first).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cnt_pipeline.errors import InputError

README_SECTION = 'the README section "Add an architecture"'

Side = Literal["row", "column"]


@dataclass(frozen=True)
class StoredMatrix:
    """One `[[matrix]]`: a stored matrix with one family, or several that share it in order."""

    module: str
    side: Side
    families: list[str]
    width: str
    bias: bool | dict[str, Any]
    repeat: str | None = None

    def has_bias(self, config: Mapping[str, Any]) -> bool:
        """Whether the matrix has a bias: fixed by the table, or a switch in config.json."""
        if isinstance(self.bias, bool):
            return self.bias
        return bool(config.get(self.bias["key"], self.bias["default"]))


@dataclass(frozen=True)
class Table:
    """One `architectures/<name>.toml`."""

    name: str
    model_types: list[str]
    stored: Literal["out_in", "in_out"]
    config: dict[str, dict[str, Any]]
    families: dict[str, list[str]]
    matrix: list[StoredMatrix]
    others: dict[str, list[str]]
    units: dict[str, dict[str, list[str]]]
    tied_names: dict[str, str]
    ignored: list[str]
    optional_prefix: str = ""
    refused: dict[str, str] = field(default_factory=dict)

    def config_keys(self, sizes: list[str]) -> str:
        """The config.json keys that determine these sizes, for messages."""
        return ", ".join(dict.fromkeys(self.config[size].get("key", size) for size in sizes))

    def positions(self, matrix: StoredMatrix, sizes: Mapping[str, int]) -> dict[str, npt.NDArray[np.int64]]:
        """Where each family's neurons lie on the neuron axis of a stored matrix: `{family: [neurons]}`."""
        counts = {family: math.prod(sizes[s] for s in self.families[family]) for family in matrix.families}
        repeats = sizes[matrix.repeat] if matrix.repeat else 1
        blocks = {family: count // repeats for family, count in counts.items()}
        positions, offset = {}, 0
        for family, block in blocks.items():
            neuron = np.arange(counts[family], dtype=np.int64)
            positions[family] = neuron // block * sum(blocks.values()) + offset + neuron % block
            positions[family].flags.writeable = False
            offset += block
        return positions


@cache
def tables() -> dict[str, Table]:
    """Every table by name; raises `InputError` for a file that is not one."""
    found = {}
    for path in files("cnt_pipeline.models").joinpath("architectures").iterdir():
        if not path.name.endswith(".toml"):
            continue
        name = path.name.removesuffix(".toml")
        try:
            raw = tomllib.loads(path.read_text("utf-8"))
            raw["matrix"] = [StoredMatrix(**entry) for entry in raw["matrix"]]
            found[name] = Table(name=name, **raw)
        except (tomllib.TOMLDecodeError, TypeError, KeyError) as error:
            raise InputError(f"{path} is not a valid architecture ({error}): see {README_SECTION}") from None
    return dict(sorted(found.items()))


def table_for(folder: Path, config: Mapping[str, Any]) -> Table:
    """The table of the model in `folder`; raises `InputError` that names the supported architectures."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{folder}/config.json names no model_type: add it or fetch the model again")
    for table in tables().values():
        if kind in table.model_types:
            return table
    for table in tables().values():
        if kind in table.refused:
            raise InputError(f"{folder} has the model type {kind!r}, {table.refused[kind]}")
    raise InputError(
        f"{folder} has the architecture {kind!r}, which is not supported (supported: "
        f"{', '.join(tables())}): choose another model or see {README_SECTION}"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The model's config.json; raises `InputError` when it is absent or unreadable."""
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds config.json and the weights")
    config = read_json(Path(folder) / "config.json")
    if config is None:
        raise InputError(f"{folder} holds no config.json: give a folder written by save_pretrained")
    return config


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, None when the file is absent; raises `InputError` when it is unreadable."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({error}): fetch the model again") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object: fetch the model again")
    return value


def read_sizes(folder: Path, config: Mapping[str, Any], table: Table) -> dict[str, int]:
    """The sizes that `[config]` names, as transformers would take them from the same config.json."""
    sizes: dict[str, int] = {}
    for name, rule in table.config.items():
        key = rule.get("key", name)
        value = config.get(key) if "key" in rule else None
        if key not in config and "default" in rule:
            value = rule["default"]
        elif value is None and "product" in rule:
            value = math.prod(sizes.get(factor, factor) for factor in rule["product"])
        elif value is None and "quotient" in rule:
            value = _quotient(folder, table, sizes, *rule["quotient"])
        flag = name == "tied"
        if isinstance(value, bool) is not flag or not isinstance(value, int) or (value < 1 and not flag):
            wanted = "true or false" if flag else "a positive whole number"
            raise InputError(f"{folder}/config.json gives {key} = {value!r}: it must be {wanted}")
        sizes[name] = value
    if sizes["heads"] % sizes["kv_heads"]:
        raise InputError(
            f"{folder}/config.json gives {sizes['heads']} attention heads for {sizes['kv_heads']} key/value "
            "heads: correct them, the first must be a multiple of the second"
        )
    return sizes


def _quotient(folder: Path, table: Table, sizes: Mapping[str, int], whole: str, parts: str) -> int:
    if sizes[whole] % sizes[parts]:
        raise InputError(
            f"{folder}/config.json gives {table.config_keys([whole])} = {sizes[whole]}, no multiple of "
            f"{table.config_keys([parts])} = {sizes[parts]}: correct them"
        )
    return sizes[whole] // sizes[parts]
