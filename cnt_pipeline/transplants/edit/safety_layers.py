"""Layers in which harmful prompts part from benign ones: where the cosine between their hidden states falls apart.

Source: arXiv 2508.09190 (grade B of methods.md). Everything is summed shard by shard, so that the raw states of one
shard are all that memory holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cnt_pipeline.activation_caches.read import prompts_of_rows, weighted_means
from cnt_pipeline.errors import InputError
from cnt_pipeline.study.block import Kind

Array = npt.NDArray[np.float64]

FAMILY = "hidden"
HARMFUL: Kind = "function"
BENIGN: Kind = "utility"


@dataclass(frozen=True)
class Directions:
    """Sum of `prompts` hidden states of length 1, `[width]`: all that mean cosines between prompts need."""

    sum: Array
    prompts: int

    @classmethod
    def of(cls, states: npt.NDArray[np.floating]) -> "Directions":
        """Of hidden states `[prompts, width]`."""
        wide = np.asarray(states, dtype=np.float64)
        lengths = np.linalg.norm(wide, axis=1, keepdims=True)
        if not (lengths > 0).all():
            raise InputError("a hidden state is all zeros and has no direction: check the model for damaged weights")
        return cls((wide / lengths).sum(0), len(wide))

    def __add__(self, other: "Directions") -> "Directions":
        return Directions(self.sum + other.sum, self.prompts + other.prompts)


def cosine_gap(benign: Directions, harmful: Directions) -> float:
    """Mean cosine between two different benign prompts, less that between a benign and a harmful one.

    Over all pairs at once: the squared length of a sum of n unit vectors is n plus the cosines of all ordered pairs.

    Raises:
        InputError: fewer than two benign prompts, or no harmful one.
    """
    n, m = benign.prompts, harmful.prompts
    if n < 2 or m < 1:
        raise InputError(
            f"hidden states of {n} benign and {m} harmful prompts give no pairs to compare: take two prompts of the "
            f"kind {BENIGN} and one of the kind {HARMFUL} at least"
        )
    among = (float(benign.sum @ benign.sum) - n) / (n * (n - 1))
    return among - float(benign.sum @ harmful.sum) / (n * m)


def safety_layers(gaps: Sequence[float], start: float = 1e-3, keep: float = 1e-4) -> tuple[int, ...]:
    """The first unbroken run of layers that widen the gap, counted from 0 as in the model.

    `gaps` holds the gap after the embedding and after every layer, `[layers + 1]`: layer l widens it by `gaps[l + 1] -
    gaps[l]`. The run starts at the first layer above `start` and goes on while layers stay above `keep`. The last layer
    never belongs: its state has passed the final norm, so its gap cannot be compared with the one before.

    Raises:
        InputError: no layer widens the gap by more than `start`.
    """
    growth = np.diff(np.asarray(gaps, dtype=np.float64))[:-1]
    above = np.flatnonzero(growth > start)
    if not above.size:
        most = f"at most {growth.max():.2g} (layer {int(growth.argmax())})" if growth.size else "no growth at all"
        raise InputError(
            f"no layer widens the gap between benign and harmful hidden states by more than {start:g}, only by {most}: "
            "name the safety layers in `layers:`, or lower `start_growth:`"
        )
    first = last = int(above[0])
    while last + 1 < growth.size and growth[last + 1] > keep:
        last += 1
    return tuple(range(first, last + 1))


def read_gaps(folder: Path, harmful: Path | None = None) -> tuple[float, ...]:
    """Gap after the embedding and after every layer, `[layers + 1]`, of a `hidden_state` probe's artifact folder.

    Prompts of the kind `function` count as harmful, those of the kind `utility` as benign; look-alikes are not read.
    The harmful ones are read from the folder `harmful` where that is another.

    Raises:
        InputError: the folder holds no hidden states, or too few prompts of a kind.
    """
    places: dict[Path, tuple[Kind, ...]] = {folder: (HARMFUL, BENIGN)}
    if harmful is not None and harmful != folder:
        places = {harmful: (HARMFUL,), folder: (BENIGN,)}
    found: dict[tuple[int, str], Directions] = {}
    for place, kinds in places.items():
        shards = sorted(place.glob(f"{FAMILY}-[0-9]*.parquet"))
        if not shards:
            raise InputError(f"{place} holds no hidden states: capture the probe hidden_state again")
        for shard in shards:
            for key, part in _directions(shard, kinds).items():
                found[key] = found[key] + part if key in found else part
    none = Directions(np.zeros(()), 0)
    layers = sorted({layer for layer, _ in found})
    if not layers:
        raise InputError(f"{folder} holds no prompts of the kinds {HARMFUL} and {BENIGN}: list both under `prompts:`")
    return tuple(cosine_gap(found.get((layer, BENIGN), none), found.get((layer, HARMFUL), none)) for layer in layers)


def _directions(shard: Path, kinds: Sequence[Kind]) -> dict[tuple[int, str], Directions]:
    """One shard's hidden states of some kinds as sums of directions, by layer and kind."""
    prompts = prompts_of_rows([shard])
    names = [(kind, name) for kind in kinds for name in prompts.get(kind, ())]
    if not names:
        return {}
    # A prompt that has all the weight is its own mean: that is how the rows themselves come back.
    weights: Mapping[tuple[str, str], Array] = dict(zip(names, np.eye(len(names)), strict=True)) | {
        (kind, name): np.zeros(len(names)) for kind in prompts.keys() - set(kinds) for name in prompts[kind]
    }
    of_kind = np.array([kind for kind, _ in names])
    return {
        (layer, kind): Directions.of(states[of_kind == kind])
        for (layer, _), states in weighted_means([shard], weights).items()
        for kind in dict.fromkeys(of_kind.tolist())
    }
