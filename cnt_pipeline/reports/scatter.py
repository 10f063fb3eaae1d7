"""A scatter plot of named points with their Pareto front, as inline SVG: cheaper to the left, better above or below."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from cnt_pipeline.reports.plots import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Point,
    Rule,
    Scale,
    axis_labels,
    framed,
    grid,
    mark_at,
    whisker,
    x_scale,
    y_scale,
)

HEIGHT = 400
_LETTER, _LINE = 6.4, 13.0
"""Room that a letter of a label takes, and its height, in pixels."""
_BESIDE, _FURTHEST = 9.0, 12
"""Gap between a point and its label, and how many lines up or down a label may be moved."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Named:
    """A point at x > 0 with its name; `look` is the CSS class of its colour."""

    name: str
    point: Point
    look: str
    marker: str


@dataclass(frozen=True)
class _Label:
    x: float
    y: float
    anchor: str
    box: Box
    leads: bool


def front(points: Sequence[Named], sign: int) -> list[Named]:
    """The points that none beats at the same x or less, by x; y is better upwards where `sign` is 1."""
    found: list[Named] = []
    for one in sorted(points, key=lambda each: (each.point.x, -sign * each.point.y, each.name)):
        equal = bool(found) and (one.point.x, one.point.y) == (found[-1].point.x, found[-1].point.y)
        if not found or sign * one.point.y > sign * found[-1].point.y or equal:
            found.append(one)
    return found


def scatter(
    name: str,
    title: str,
    description: str,
    points: Sequence[Named],
    sign: int,
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    rules: Sequence[Rule] = (),
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """An SVG figure with a logarithmic x axis; `name` makes its ids unique in the page.

    The front is a step line: the best y to be had for at most so much x. Points on it are filled, the others hollow.
    """
    bounds = [b for each in points for b in (each.point.y, each.point.low, each.point.high) if b is not None]
    x, y = x_scale([each.point.x for each in points]), y_scale(bounds, rules, y_range, HEIGHT)
    best = front(points, sign)
    parts = [grid(x, y, x_text, y_text), axis_labels(x, y, x_label, y_label)]
    parts += [
        Markup('<path class="rule" d="M{} {} H{}"/>').format(x.begin, round(y(rule.y), 1), x.end) for rule in rules
    ]
    parts.append(_steps(best, x, y))
    places = [(round(x(each.point.x), 1), round(y(each.point.y), 1)) for each in points]
    for each, (px, py) in zip(points, places, strict=True):
        inner = Markup("")
        if each.point.low is not None and each.point.high is not None:
            inner += whisker(px, round(y(each.point.low), 1), round(y(each.point.high), 1))
        inner += mark_at(each.marker, px, py, each not in best)
        parts.append(Markup('<g class="{look}">{inner}</g>').format(look=each.look, inner=inner))
    covered = _covered(points, places, best, x, y)
    for rule in rules:
        label = _best(_along(rule, x, y), covered)
        covered.append(label.box)
        parts.append(_text("rule-label", rule.label, label))
    labels = _labels([each.name for each in points], places, covered)
    for each, place, label in zip(points, places, labels, strict=True):
        if label.leads:
            parts.append(_lead(place, label))
        parts.append(_text("name", each.name, label))
    return framed(name, title, description, parts, HEIGHT)


def _steps(best: Sequence[Named], x: Scale, y: Scale) -> Markup:
    if not best:
        return Markup("")
    places = [(round(x(each.point.x), 1), round(y(each.point.y), 1)) for each in best]
    path = f"M{places[0][0]} {places[0][1]}"
    path += "".join(f" H{after[0]} V{after[1]}" for _, after in pairwise(places))
    return Markup('<path class="front" d="{path} H{end}"/>').format(path=path, end=x.end)


def _covered(
    points: Sequence[Named], places: Sequence[tuple[float, float]], best: Sequence[Named], x: Scale, y: Scale
) -> list[Box]:
    """What names keep clear of beside each other: marks, whiskers and the front."""
    found = [(px - 5, py - 5, px + 5, py + 5) for px, py in places]
    for each, (px, _) in zip(points, places, strict=True):
        if each.point.low is not None and each.point.high is not None:
            top, bottom = sorted((y(each.point.low), y(each.point.high)))
            found.append((px - 1, top, px + 1, bottom))
    for one, after in pairwise(best):
        found.append((x(one.point.x), y(one.point.y) - 1, x(after.point.x), y(one.point.y) + 1))
    if best:
        last = y(best[-1].point.y)
        found.append((x(best[-1].point.x), last - 1, x.end, last + 1))
    return found


def _along(rule: Rule, x: Scale, y: Scale) -> list[_Label]:
    """Places for a rule's label: below or above its line, from the left to the right."""
    at, width = y(rule.y), _LETTER * len(rule.label)
    return [
        _at(rule.label, x.begin + begin, at, 5.0, down)
        for begin in range(0, max(int(x.end - x.begin - width), 1), 20)
        for down in (_LINE * 0.8, -_LINE * 0.8)
    ]


def _best(tried: Sequence[_Label], covered: Sequence[Box]) -> _Label:
    """The first of the places that hides least."""
    return min(tried, key=lambda each: _outside(each) + sum(_shared(each.box, box) for box in covered))


def _labels(names: Sequence[str], places: Sequence[tuple[float, float]], covered: Sequence[Box]) -> list[_Label]:
    """Where each name stands: as near to its point as it can without covering a point, another name or the frame."""
    taken = list(covered)
    order = sorted(range(len(names)), key=lambda n: (places[n][1], places[n][0], names[n]))
    found: dict[int, _Label] = {}
    for number in order:
        found[number] = _best(_candidates(names[number], *places[number]), taken)
        taken.append(found[number].box)
    return [found[number] for number in range(len(names))]


def _candidates(name: str, px: float, py: float) -> list[_Label]:
    """Places for a label, the nearest first: beside its point, above and below, then further away."""
    places = [(_BESIDE, 0.0), (-_BESIDE, 0.0)]
    for lines in range(1, _FURTHEST + 1):
        for down in (-lines * _LINE, lines * _LINE):
            places += [(0.0, down), (_BESIDE, down), (-_BESIDE, down), (4 * _BESIDE, down), (-4 * _BESIDE, down)]
    return [_at(name, px, py, across, down) for across, down in places]


def _at(name: str, px: float, py: float, across: float, down: float) -> _Label:
    x, middle, width = px + across, py + down, _LETTER * len(name)
    anchor = "start" if across > 0 else "end" if across < 0 else "middle"
    left = x if across > 0 else x - width if across < 0 else x - width / 2
    box = (left, middle - _LINE / 2, left + width, middle + _LINE / 2)
    return _Label(round(x, 1), round(middle + 4, 1), anchor, box, abs(down) > _LINE)


def _shared(one: Box, other: Box) -> float:
    """Area that two boxes share."""
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(label: _Label) -> float:
    """Area of a label that lies outside the frame."""
    left, top, right, bottom = label.box
    frame = (float(LEFT), float(TOP), float(WIDTH - RIGHT), float(HEIGHT - BOTTOM))
    return (right - left) * (bottom - top) - _shared(label.box, frame)


def _text(look: str, text: str, label: _Label) -> Markup:
    return Markup('<text class="{look}" x="{x}" y="{y}" text-anchor="{anchor}">{text}</text>').format(
        look=look, x=label.x, y=label.y, anchor=label.anchor, text=text
    )


def _lead(place: tuple[float, float], label: _Label) -> Markup:
    """The line from a point to its name."""
    return Markup('<path class="lead" d="M{a} {b} L{c} {d}"/>').format(
        a=place[0], b=place[1], c=label.x, d=round(label.y - 4, 1)
    )
