"""Plots: axes, markers, intervals and words for those who do not see them."""

import re
import xml.etree.ElementTree as ET

import pytest

from cnt_pipeline.reports.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    Rule,
    Scale,
    Series,
    line_plot,
    linear_ticks,
    log_ticks,
)


def _plot(series: list[Series], **changes: object) -> ET.Element:
    settings: dict[str, object] = {"rules": (), "y_range": (0.0, 100.0)} | changes
    svg = line_plot("one", "A & B", "words", series, "x", "y", lambda v: f"{v:g} x", lambda v: f"{v:g} y", **settings)  # type: ignore[arg-type]
    return ET.fromstring(str(svg))


def _texts(svg: ET.Element) -> list[str]:
    return [node.text or "" for node in svg.iter("text")]


def _circles(svg: ET.Element) -> list[tuple[float, float]]:
    return [(float(node.get("cx", "nan")), float(node.get("cy", "nan"))) for node in svg.iter("circle")]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1.0, 30.0, [1, 2, 5, 10, 20]),
        (0.01, 10.0, [0.01, 0.1, 1, 10]),
        (0.015, 0.9, [0.02, 0.05, 0.1, 0.2, 0.5]),
    ],
)
def test_log_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (-4, 104, [0, 25, 50, 75, 100]),
        (-0.08, 2.08, [0, 0.5, 1, 1.5, 2]),
        (-50, 110, [-50, 0, 50, 100]),
    ],
)
def test_linear_ticks_are_round_and_inside(low: float, high: float, ticks: list[float]) -> None:
    assert linear_ticks(low, high) == pytest.approx(ticks)


def test_equal_factors_are_equal_distances_on_a_log_scale() -> None:
    scale = Scale(1, 100, 0, 200, logarithmic=True)
    assert [scale(v) for v in (1, 10, 100)] == pytest.approx([0, 100, 200])


def test_points_lie_where_the_ticks_say() -> None:
    svg = _plot([Series("a", [Point(1, 0), Point(10, 50), Point(100, 100)], "s", "circle")])
    (x1, y1), (x2, y2), (x3, y3) = _circles(svg)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.2) and y1 - y2 == pytest.approx(y2 - y3, abs=0.2)
    ticks = {node.text: (float(node.get("x", 0)), float(node.get("y", 0))) for node in svg.iter("text") if node.text}
    assert ticks["10 x"][0] == pytest.approx(x2, abs=0.2)
    assert ticks["50 y"][1] == pytest.approx(y2 + 4, abs=0.2)
    assert LEFT < x1 < x3 < WIDTH - RIGHT and TOP < y3 < y1 < HEIGHT - BOTTOM


def test_values_beyond_the_wanted_range_widen_it() -> None:
    svg = _plot([Series("a", [Point(1, -40, -60, 130)], "s", "circle")])
    ((_, y),) = _circles(svg)
    assert TOP < y < HEIGHT - BOTTOM
    assert {"-50 y", "100 y"} <= set(_texts(svg))
    (whisker,) = (node.get("d", "") for node in svg.iter("path") if node.get("class") == "whisker")
    bounds = [float(v) for v in re.findall(r"[\d.]+", whisker)]
    assert min(bounds) > 0 and max(bounds[1::2]) < HEIGHT


def test_lines_join_points_by_x_whatever_their_order() -> None:
    svg = _plot([Series("a", [Point(100, 1), Point(1, 3), Point(10, 2)], "s", "circle")])
    (line,) = (node.get("d", "") for node in svg.iter("path") if node.get("class") == "line")
    xs = [float(x) for x in re.findall(r"([\d.]+) [\d.]+", line)]
    assert len(xs) == 3 and xs == sorted(xs)


def test_equal_points_of_two_series_do_not_hide_each_other() -> None:
    svg = _plot([Series(name, [Point(1, 0)], name, "circle") for name in ("a", "b")])
    (first, _), (second, _) = _circles(svg)
    assert second - first == pytest.approx(5, abs=0.2)


def test_hollow_points_and_rules_are_drawn_and_named() -> None:
    svg = _plot([Series("a", [Point(1, 5, hollow=True)], "s", "circle")], rules=[Rule(95, "asked for: 95 %")])
    assert "asked for: 95 %" in _texts(svg)
    assert any(node.get("class") == "marker hollow" for node in svg.iter("g"))


def test_a_plot_says_in_words_what_it_shows() -> None:
    svg = _plot([])
    labelled = (svg.get("aria-labelledby") or "").split()
    assert svg.get("role") == "img" and labelled == ["one-title", "one-text"]
    assert [svg.findtext("title"), svg.findtext("desc")] == ["A & B", "words"]


def test_names_are_escaped() -> None:
    svg = _plot([Series("<b>", [Point(0, 1), Point(1, 1)], "s", "circle")], rules=[Rule(1, "<script>")])
    assert "<script>" in _texts(svg) and svg.find(".//script") is None
    assert len(_circles(svg)) == 1
