"""Units of selection: what a rule takes or leaves as a whole, be it a neuron, an FFN channel or an attention head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl

from cnt_pipeline.errors import StudyError
from cnt_pipeline.models.architecture import Architecture, Unit, coarse_units
from cnt_pipeline.transplants.select.candidates import Floats, Indices, Space, read_ranking

ROW = "row"
_HEADS = ("attention_group", "query_head")
"""Units that `head` may mean, first choice first: a group is a head with its keys and values, which are whole only
together with every query head that shares them."""


@dataclass(frozen=True, eq=False)
class Order:
    """Units from best to worst as neuron numbers: unit i holds `numbers[ends[i - 1] : ends[i]]`; `len` counts units."""

    numbers: Indices
    ends: Indices

    @classmethod
    def of_neurons(cls, numbers: Indices) -> "Order":
        """Every neuron is a unit of its own."""
        return cls(numbers, np.arange(1, len(numbers) + 1))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def owner(self) -> Indices:
        """The unit of each of `numbers`."""
        return np.repeat(np.arange(len(self)), np.diff(self.ends, prepend=0))

    def top(self, count: int | None) -> Indices:
        """Neuron numbers of the best `count` units."""
        return self.first(count).numbers

    def first(self, count: int | None) -> "Order":
        """The best `count` units."""
        ends = self.ends[:count]
        return Order(self.numbers[: ends[-1] if len(ends) else 0], ends)

    def pick(self, units: Indices) -> "Order":
        """These units in this order."""
        starts = np.concatenate([[0], self.ends[:-1]])
        parts = [self.numbers[starts[unit] : self.ends[unit]] for unit in units]
        numbers = np.concatenate(parts) if parts else self.numbers[:0]
        return Order(numbers, np.cumsum([len(part) for part in parts], dtype=np.int64))

    def without(self, begin: int, end: int) -> "Order":
        """All units but those from `begin` up to `end`."""
        return self.pick(np.delete(np.arange(len(self)), np.s_[begin:end]))

    def followed_by(self, other: "Order") -> "Order":
        """These units, then those of `other`."""
        return Order(
            np.concatenate([self.numbers, other.numbers]), np.concatenate([self.ends, other.ends + len(self.numbers)])
        )

    def sums(self, values: Floats | Indices) -> Floats:
        """Sum of `values` (one per neuron number of the model) over the members of each unit."""
        return np.bincount(self.owner, values[self.numbers].astype(np.float64), len(self)).astype(np.float64)

    def sorted_by(self, values: Floats) -> "Order":
        """The same units from the largest of `values` (one per unit) to the smallest; ties keep their order."""
        return self.pick(np.argsort(-values, kind="stable"))

    def parameters(self, space: Space) -> Indices:
        """Weights held by the best one, two, three ... units."""
        return np.cumsum(self.sums(space.sizes)).astype(np.int64)

    def within(self, space: Space, parameters: int) -> "Order":
        """The longest start that holds at most `parameters` weights; at least one unit."""
        return self.first(max(int(np.searchsorted(self.parameters(space), parameters, side="right")), 1))


def read_unit_orders(
    ranking: Path,
    space: Space,
    architecture: Architecture,
    units: Sequence[str] = (ROW,),
    families: tuple[str, ...] | None = None,
) -> dict[float, Order]:
    """Units from best to worst for each look-alike weight of a ranking; a unit's score is the sum of its members'.

    With `families` a unit consists of its members in those families; units without any are left out.

    Raises:
        StudyError: a family or unit that the architecture does not have.
    """
    owner = None if tuple(units) == (ROW,) else _owners(space, _coarse(architecture, units))
    orders = {}
    for weight, part in read_ranking(ranking, space, families).items():
        numbers = space.numbers(part)
        orders[weight] = Order.of_neurons(numbers) if owner is None else _grouped(numbers, part["score"], owner)
    return orders


def _grouped(numbers: Indices, scores: pl.Series, owner: Indices) -> Order:
    inside = owner[numbers] >= 0
    numbers, values = numbers[inside], scores.to_numpy()[inside].astype(np.float64)
    belonging = owner[numbers]
    if not len(numbers):
        raise StudyError("study:method.families: no unit of method.units has a member in them; name others")
    by_unit = np.lexsort((numbers, belonging))
    names, starts = np.unique(belonging[by_unit], return_index=True)
    ends = np.append(starts[1:], len(by_unit))
    sums = np.bincount(belonging, values)[names].astype(np.float64)
    return Order(numbers[by_unit], ends).sorted_by(sums)


def _coarse(architecture: Architecture, units: Sequence[str]) -> list[Unit]:
    table: Mapping[str, Unit] = {unit.name: unit for unit in coarse_units(architecture)}
    chosen = []
    for name in units:
        unit = next((table[n] for n in (_HEADS if name == "head" else (name,)) if n in table), None)
        if unit is None:
            raise StudyError(
                f"study:method.units: a {architecture.name} has no unit '{name}'; choose row, or among "
                f"{', '.join(table)}"
            )
        chosen.append(unit)
    for one, other in pairwise(chosen):
        shared = set(one.families) & set(other.families)
        if shared:
            raise StudyError(
                f"study:method.units: {one.name} and {other.name} share the family {min(shared)}; name one of them"
            )
    return chosen


def _owners(space: Space, units: Sequence[Unit]) -> Indices:
    """Number of the unit that each neuron belongs to, layer by layer; -1 where it belongs to none."""
    owner = np.full(len(space.sizes), -1, dtype=np.int64)
    layers = 1 + max(matrix.layer for matrix in space.matrices)
    first = 0
    for unit in units:
        for matrix in space.matrices:
            if matrix.family in unit.families:
                begin = space.offsets[matrix.layer, matrix.family]
                for index in range(unit.count):
                    members = unit.members(matrix, index)
                    owner[begin + members.start : begin + members.stop] = first + matrix.layer * unit.count + index
        first += layers * unit.count
    return owner
