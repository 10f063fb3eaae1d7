"""Turn one GGUF file into a model folder: float32 safetensors, config, tokenizer and chat template.

The values are dequantised by transformers into float32, because a block format such as Q4_1 (a 4-bit number times a
half-precision scale, plus a half-precision minimum) needs more digits than bfloat16 has: float32 holds what the file
says, and later arithmetic on the weights is not rounded to a coarser grid.
"""

from __future__ import annotations

import importlib.util
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.load import quiet_transformers

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of one value, by the number that the format gives its type."""
_STRING, _ARRAY = 8, 9
_LONGEST_TEXT = 1 << 24


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself: its architecture in llama.cpp's words, and its number of weights."""

    architecture: str
    parameters: int


def read_header(file: Path) -> Header:
    """The header of a GGUF file (version 2 or 3, little-endian); no weight is read.

    Source of the format: ggml's docs/gguf.md. The vocabulary is skipped, which the reader of the package gguf takes
    seconds for.

    Raises:
        InputError: the file is damaged or holds no model.
    """
    try:
        with file.open("rb") as stream:
            if stream.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, tensors, keys = _numbers(stream, "IQQ")
            if version not in (2, 3):
                raise ValueError(f"it has the version {version}")
            values = dict(_key_value(stream) for _ in range(keys))
            parameters = sum(_elements(stream) for _ in range(tensors))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is no intact GGUF file ({error}): fetch it again") from None
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not parameters:
        raise InputError(
            f"{file} holds no model (architecture {architecture!r}, {tensors} tensors): choose another file"
        )
    return Header(architecture, parameters)


def _numbers(stream: BinaryIO, layout: str) -> tuple[int, ...]:
    size = struct.calcsize(f"<{layout}")
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it is truncated inside its header")
    return struct.unpack(f"<{layout}", data)


def _string(stream: BinaryIO) -> str:
    (length,) = _numbers(stream, "Q")
    if length > _LONGEST_TEXT:
        raise ValueError(f"a text in its header claims {length} bytes")
    return stream.read(length).decode("utf-8", "replace")


def _key_value(stream: BinaryIO) -> tuple[str, str | None]:
    """A key with its text; None for what is no text and is skipped."""
    key = _string(stream)
    (kind,) = _numbers(stream, "I")
    if kind == _STRING:
        return key, _string(stream)
    inner, count = _numbers(stream, "IQ") if kind == _ARRAY else (kind, 1)
    if inner == _STRING:
        for _ in range(count):
            _string(stream)
    elif inner in _SIZES:
        stream.seek(_SIZES[inner] * count, 1)
    else:
        raise ValueError(f"{key} has the unknown type {inner}")
    return key, None


def _elements(stream: BinaryIO) -> int:
    """Number of weights of the next tensor."""
    _string(stream)
    (axes,) = _numbers(stream, "I")
    if not 1 <= axes <= 4:
        raise ValueError(f"a tensor has {axes} axes")
    *shape, _, _ = _numbers(stream, "Q" * axes + "IQ")
    return math.prod(shape)


def dequantise(file: Path, folder: Path) -> None:
    """Write the model in `file` to `folder` as transformers would have saved it unquantised, in float32.

    Nothing that lies beside the file counts: transformers would prefer a tokenizer.json there to the file's own.

    Raises:
        InputError: the package gguf is not installed, or transformers cannot read the file's architecture.
    """
    require_gguf(file)
    read_header(file)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    how: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    try:
        # The reader draws a progress bar of its own; the step has one already.
        with (
            TemporaryDirectory() as alone,
            quiet_transformers(),
            redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
            _read_once(),
        ):
            Path(alone, file.name).symlink_to(file.absolute())
            tokenizer = AutoTokenizer.from_pretrained(alone, **how)
            model = AutoModelForCausalLM.from_pretrained(alone, dtype=torch.float32, **how)
    except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
        raise InputError(
            f"transformers cannot read {file} ({_short(error)}): choose a GGUF of a supported architecture, or give "
            "the unquantised model's folder"
        ) from error
    # Without these two transformers takes the model for a quantised one and refuses to save it.
    del model.config.quantization_config
    model.hf_quantizer = None
    with quiet_transformers():
        model.save_pretrained(str(folder))
        tokenizer.save_pretrained(str(folder))


@contextmanager
def _read_once() -> Iterator[None]:
    """transformers parses the file three times and makes the table of tensor names anew for every module, which is
    most of the time that it takes: inside this context each is done once."""
    import gguf

    kept = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    try:
        for name, function in kept.items():
            setattr(gguf, name, cache(function))
        yield
    finally:
        for name, function in kept.items():
            setattr(gguf, name, function)


def require_gguf(file: Path) -> None:
    """Refuse a GGUF file where the package that reads it is missing.

    Raises:
        InputError: the package gguf is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise InputError(
            f"{file.name} is a GGUF file, which needs the package gguf: run pip install 'cnt_pipeline[gguf]'"
        )


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
