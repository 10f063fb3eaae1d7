"""The lineage's drawing: nothing overlaps, lines go down, and what others imply is left out."""

from itertools import combinations

import pytest

from cnt_pipeline.reports.layers import NODE_HEIGHT, NODE_WIDTH, draw, reduced

LADDER = {f"s{n}": [f"s{m}" for m in range(n)] for n in range(6)}
FAN = {"a": [], "b": [], **{f"c{n}": ["a", "b"] for n in range(7)}, "d": [f"c{n}" for n in range(7)]}
WIDE = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"], "x": ["a"], "e": ["d", "x"], "late": [], "f": ["e", "late"]}


def test_an_edge_that_others_imply_is_left_out() -> None:
    assert reduced({"a": [], "b": ["a"], "c": ["a", "b"]}) == {"a": [], "b": ["a"], "c": ["b"]}
    assert [reduced(LADDER)[f"s{n}"] for n in range(1, 6)] == [[f"s{n - 1}"] for n in range(1, 6)]


@pytest.mark.parametrize("graph", [LADDER, FAN, WIDE, {"alone": []}, {}])
def test_boxes_lie_inside_apart_and_below_what_they_come_from(graph: dict[str, list[str]]) -> None:
    drawing = draw(graph)
    for x, y in drawing.nodes.values():
        assert NODE_WIDTH / 2 <= x <= drawing.width - NODE_WIDTH / 2
        assert NODE_HEIGHT / 2 <= y <= drawing.height - NODE_HEIGHT / 2
    for (x1, y1), (x2, y2) in combinations(drawing.nodes.values(), 2):
        assert abs(x1 - x2) >= NODE_WIDTH or abs(y1 - y2) >= NODE_HEIGHT
    for (source, target), points in drawing.edges.items():
        assert points[0] == drawing.nodes[source] and points[-1] == drawing.nodes[target]
        heights = [y for _, y in points]
        assert heights == sorted(set(heights))
        for x, y in points[1:-1]:
            assert all(abs(x - nx) > NODE_WIDTH / 2 for nx, ny in drawing.nodes.values() if ny == y)
    assert set(drawing.edges) == {(source, name) for name, sources in reduced(graph).items() for source in sources}


def test_what_comes_from_nothing_stands_right_above_its_first_child() -> None:
    nodes = draw(WIDE).nodes
    rows = sorted({y for _, y in nodes.values()})
    assert rows.index(nodes["late"][1]) == rows.index(nodes["f"][1]) - 1


def test_the_same_graph_is_drawn_the_same() -> None:
    assert draw(FAN) == draw(dict(FAN))
