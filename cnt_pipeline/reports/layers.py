"""A layered drawing of a directed graph: nodes in rows below what they come from, edges around the nodes between."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

NODE_WIDTH, NODE_HEIGHT = 150.0, 58.0
_GAP, _LANE, _ROW = 12.0, 4.0, 92.0
"""Room between nodes, width of the lane of an edge that passes a row, and the distance of rows, in pixels."""
_SWEEPS = 12

Place = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """Centres of the nodes, and for every edge (from, to) the points that it passes; in pixels from the top left."""

    width: float
    height: float
    nodes: Mapping[str, Place]
    edges: Mapping[tuple[str, str], tuple[Place, ...]]


@dataclass
class _Spot:
    """A node, or the lane of an edge in a row that it passes."""

    name: str
    width: float
    above: "list[_Spot]"
    below: "list[_Spot]"
    x: float = 0.0


def draw(parents: Mapping[str, Sequence[str]]) -> Drawing:
    """The drawing of a graph given as each node's parents; parents come before their children.

    Edges that others imply are left out: of a -> b -> c and a -> c, the last.
    """
    direct = reduced(parents)
    rows = _rows(direct)
    count = max(rows.values(), default=-1) + 1
    grid: list[list[_Spot]] = [[] for _ in range(count)]
    spots = {name: _Spot(name, NODE_WIDTH, [], []) for name in direct}
    for name, row in rows.items():
        grid[row].append(spots[name])
    chains: dict[tuple[str, str], list[_Spot]] = {}
    for name, sources in direct.items():
        for source in sources:
            lanes = [_Spot("", _LANE, [], []) for _ in range(rows[source] + 1, rows[name])]
            for row, lane in enumerate(lanes, rows[source] + 1):
                grid[row].append(lane)
            chains[source, name] = [spots[source], *lanes, spots[name]]
            for upper, lower in pairwise(chains[source, name]):
                upper.below.append(lower)
                lower.above.append(upper)
    _order(grid)
    left = min((spot.x - spot.width / 2 for row in grid for spot in row), default=0.0)
    for spot in (spot for row in grid for spot in row):
        spot.x = round(spot.x - left + 1, 1)
    heights = {id(spot): NODE_HEIGHT / 2 + 1 + number * _ROW for number, row in enumerate(grid) for spot in row}
    return Drawing(
        width=max((spot.x + spot.width / 2 for row in grid for spot in row), default=0.0) + 1,
        height=max(heights.values(), default=0.0) + NODE_HEIGHT / 2 + 1,
        nodes={name: (spot.x, heights[id(spot)]) for name, spot in spots.items()},
        edges={edge: tuple((spot.x, heights[id(spot)]) for spot in chain) for edge, chain in chains.items()},
    )


def reduced(parents: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Each node's parents but those that another parent comes from."""
    ancestors: dict[str, set[str]] = {}
    for name, sources in parents.items():
        ancestors[name] = {each for source in sources for each in (source, *ancestors[source])}
    return {
        name: [source for source in sources if not any(source in ancestors[other] for other in sources)]
        for name, sources in parents.items()
    }


def _rows(parents: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """A row for each node: one below its lowest parent; what comes from nothing stands right above its first child."""
    rows: dict[str, int] = {}
    for name, sources in parents.items():
        rows[name] = max((rows[source] + 1 for source in sources), default=0)
    for name, sources in parents.items():
        children = [rows[child] for child, theirs in parents.items() if name in theirs]
        if not sources and children:
            rows[name] = min(children) - 1
    return rows


def _order(grid: list[list[_Spot]]) -> None:
    """Put every row in the order of its neighbours, from above and from below in turn, then as straight as it goes."""
    for row in grid:
        _spread(row)
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for row in grid if down else reversed(grid):
            for spot in row:
                spot.x = _middle(spot.above if down else spot.below, spot.x)
            row.sort(key=lambda spot: spot.x)
            _spread(row)
    for _ in range(_SWEEPS):
        for row in grid:
            for spot in row:
                spot.x = _middle([*spot.above, *spot.below], spot.x)
            _spread(row)


def _middle(neighbours: Sequence[_Spot], otherwise: float) -> float:
    return sum(spot.x for spot in neighbours) / len(neighbours) if neighbours else otherwise


def _spread(row: list[_Spot]) -> None:
    """Move the spots of a row apart, in their order, as little as it takes, around where they want to be."""
    wanted = [spot.x for spot in row]
    offsets = [0.0]
    for left, right in pairwise(row):
        offsets.append(offsets[-1] + (left.width + right.width) / 2 + _GAP)
    # Without the room that each needs, places may only grow: the nearest such row is found by pooling neighbours.
    pools: list[tuple[float, int]] = []
    for value in (want - offset for want, offset in zip(wanted, offsets, strict=True)):
        pools.append((value, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, n), (other, m) = pools[-2:]
            pools[-2:] = [((one * n + other * m) / (n + m), n + m)]
    flat = [value for value, count in pools for _ in range(count)]
    for spot, value, offset in zip(row, flat, offsets, strict=True):
        spot.x = value + offset
