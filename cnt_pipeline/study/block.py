"""What every part of the study file is made of: immutable blocks and values with their limits."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Kind = Literal["function", "lookalike", "utility"]
Split = Literal["score", "selection", "test", "train"]
KINDS: tuple[Kind, ...] = ("function", "lookalike", "utility")
SPLITS: tuple[Split, ...] = ("score", "selection", "test")
"""Splits on which models are compared."""
TRAIN: Split = "train"
"""Teaches derived models; built only for the kinds that a lesson names."""

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
Name = Annotated[str, StringConstraints(pattern=NAME)]
Text = Annotated[str, StringConstraints(min_length=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Weight = Annotated[float, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Seed = Annotated[int, Field(strict=True, ge=0)]


class Block(BaseModel):
    """A block of the study file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, allow_inf_nan=False)


def is_commit(revision: str | None) -> bool:
    """Whether `revision` is a full commit hash, which cannot move."""
    return (
        bool(revision)
        and len(str(revision)) == 40
        and all(digit in "0123456789abcdef" for digit in str(revision).lower())
    )
