"""Weights as stored bits: conversion between bfloat16, float16 and float32, and the edit rule, in numpy.

numpy has no bfloat16, so values travel as unsigned integers of the stored width. Rounding is to nearest
even; a NaN stays a NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.unsignedinteger[Any]]
Floats = npt.NDArray[np.float32]

BIT_TYPES: dict[str, np.dtype[np.unsignedinteger[Any]]] = {
    "BF16": np.dtype(np.uint16),
    "F16": np.dtype(np.uint16),
    "F32": np.dtype(np.uint32),
}
"""The integer that holds one stored weight, by safetensors dtype: the dtypes that can be transplanted."""


def to_float32(bits: Bits, dtype: str) -> Floats:
    """The values of stored bits, exactly; the shape stays."""
    if dtype == "F32":
        return bits.view(np.float32)
    if dtype == "F16":
        return bits.view(np.float16).astype(np.float32)
    wide = bits.astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


def from_float32(values: Floats, dtype: str) -> Bits:
    """The stored bits nearest to `values` (ties to even, beyond the largest finite value infinity)."""
    if dtype == "F32":
        return values.view(np.uint32)
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    wide = values.view(np.uint32)
    odd = (wide >> 16) & 1
    rounded = (wide + (odd + 0x7FFF)) >> 16
    return np.where(np.isnan(values), (wide >> 16) | 0x40, rounded).astype(np.uint16)


def transplanted(old: Bits, donor: Bits, dtype: str, donor_dtype: str, amplitudes: Floats) -> Bits:
    """The target's weights `W_T + a (W_D - W_T)`, computed in float32 and stored as `dtype`.

    `old` and `donor` have one shape, to which `amplitudes` broadcasts. Where `a` is 1 the result is the
    donor's value: its very bits when both dtypes are equal, else its nearest in `dtype`.

    Raises `OverflowError` where finite weights give a value that `dtype` cannot hold.
    """
    whole = amplitudes == 1
    if dtype == donor_dtype and whole.all():
        return donor
    mine, theirs = to_float32(old, dtype), to_float32(donor, donor_dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        values = mine + amplitudes * (theirs - mine)
    np.copyto(values, theirs, where=whole)
    bits = from_float32(values, dtype)
    if (~np.isfinite(to_float32(bits, dtype)) & np.isfinite(mine) & np.isfinite(theirs)).any():
        raise OverflowError(f"beyond the largest {dtype} number")
    if dtype == donor_dtype:
        np.copyto(bits, donor, where=whole)
    return bits
