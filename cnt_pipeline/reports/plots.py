"""Small line plots as inline SVG, readable without colour, in light and dark mode, and on a phone.

Series differ in marker and dash as well as in colour; colours are CSS classes of the page. The text stays
readable when a plot is scaled down to 340 px.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 460, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 14, 46
_DODGE, _WIDEST_DODGE = 5.0, 24.0
_MARKERS = {
    "circle": "<circle cx='{x}' cy='{y}' r='4.5'/>",
    "square": "<rect x='{x0}' y='{y0}' width='9' height='9'/>",
    "triangle": "<path d='M{x} {y0} l5.2 9 h-10.4 z'/>",
    "diamond": "<path d='M{x} {yt} l6.5 6.5 l-6.5 6.5 l-6.5 -6.5 z'/>",
    "down": "<path d='M{x} {y} m0 5 l5.2 -9 h-10.4 z'/>",
    "plus": "<path d='M{x} {y} m-1.7 -5.2 h3.4 v3.5 h3.5 v3.4 h-3.5 v3.5 h-3.4 v-3.5 h-3.5 v-3.4 h3.5 z'/>",
    "star": "<path d='M{x} {yt} l1.8 4.4 4.7 .4 -3.6 3.1 1.1 4.6 -4 -2.5 -4 2.5 1.1 -4.6 -3.6 -3.1 4.7 -.4 z'/>",
    "dot": "<circle cx='{x}' cy='{y}' r='2.5'/>",
}


@dataclass(frozen=True)
class Point:
    """A value with the bounds of its interval where it has one; `hollow` draws the outline only."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    hollow: bool = False


@dataclass(frozen=True)
class Series:
    """Points of one kind. `look` is the CSS class of colour and dash; `line` joins the points by their x."""

    name: str
    points: Sequence[Point]
    look: str
    marker: str
    line: bool = True


@dataclass(frozen=True)
class Rule:
    """A horizontal line with its label, such as a limit."""

    y: float
    label: str


@dataclass(frozen=True)
class Scale:
    """Maps values of [low, high] to [begin, end] in pixels; `logarithmic` takes positive values only."""

    low: float
    high: float
    begin: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of `value`; values outside the range lie outside the frame."""
        low, high, at = (self._inner(v) for v in (self.low, self.high, value))
        return self.begin + (at - low) / (high - low) * (self.end - self.begin)

    def _inner(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten in [low, high], with 2 and 5 times those where the range spans less than 2.5 decades."""
    steps = (1, 2, 5) if math.log10(high / low) < 2.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{step}e{exponent}") for exponent in exponents for step in steps]
    return [tick for tick in ticks if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round values in [low, high] at a step of 1, 2, 2.5 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10((high - low) / about))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if (high - low) / (s * power) <= about + 1e-9)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def line_plot(
    name: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x_label: str,
    y_label: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
    rules: Sequence[Rule] = (),
    y_range: tuple[float, float] | None = None,
) -> Markup:
    """An SVG figure with a logarithmic x axis; `name` makes its ids unique in the page.

    `y_range` is widened where points, intervals or rules lie outside it. Points at x <= 0 are left out.
    """
    kept = [(s, [p for p in s.points if p.x > 0]) for s in series]
    x = x_scale([p.x for _, points in kept for p in points])
    y = y_scale([b for _, ps in kept for p in ps for b in (p.y, p.low, p.high) if b is not None], rules, y_range)
    parts = [grid(x, y, x_text, y_text), axis_labels(x, y, x_label, y_label)]
    parts += [_rule(rule, y) for rule in rules]
    shifts = _shifts(series)
    parts += [_series(s, points, x, y, shift) for (s, points), shift in zip(kept, shifts, strict=True)]
    return framed(name, title, description, parts)


def framed(name: str, title: str, description: str, parts: Sequence[Markup], height: int = HEIGHT) -> Markup:
    """The parts of a figure as one image, told by title and description to those who cannot see it."""
    return Markup(
        '<svg class="plot" viewBox="0 0 {w} {h}" role="img" aria-labelledby="{name}-title {name}-text">'
        '<title id="{name}-title">{title}</title><desc id="{name}-text">{text}</desc>{inner}</svg>'
    ).format(w=WIDTH, h=height, name=name, title=title, text=description, inner=Markup("").join(parts))


def legend_mark(look: str, marker: str, line: bool = True, hollow: bool = False) -> Markup:
    """A series' line and marker, to put beside its name; hidden from screen readers, the name says it all."""
    inner = Markup('<path class="line" d="M1 8 H31"/>') if line else Markup("")
    return Markup('<svg class="mark {look}" viewBox="0 0 32 16" aria-hidden="true">{line}{marker}</svg>').format(
        look=look, line=inner, marker=mark_at(marker, 16, 8, hollow)
    )


def _shifts(series: Sequence[Series]) -> list[float]:
    """Pixels by which each series is moved aside, so that none hides another; loose points stay where they are."""
    joined = [place for place, one in enumerate(series) if one.line]
    dodge = min(_DODGE, _WIDEST_DODGE / max(len(joined) - 1, 1))
    return [
        (joined.index(place) - (len(joined) - 1) / 2) * dodge if one.line else 0.0 for place, one in enumerate(series)
    ]


def x_scale(values: Sequence[float]) -> Scale:
    """The logarithmic axis that holds `values`, all positive."""
    low, high = (min(values), max(values)) if values else (0.01, 1.0)
    return Scale(low / 1.25, high * 1.25, LEFT, WIDTH - RIGHT, logarithmic=True)


def y_scale(
    values: Sequence[float], rules: Sequence[Rule], wanted: tuple[float, float] | None, height: int = HEIGHT
) -> Scale:
    """The axis that holds `values`, the rules and the range wanted, in a plot of `height`."""
    everything = [*values, *(rule.y for rule in rules), *(wanted or ())] or [0.0, 1.0]
    low, high = min(everything), max(everything)
    margin = (high - low or 1.0) * 0.04
    return Scale(low - margin, high + margin, height - BOTTOM, TOP)


def grid(x: Scale, y: Scale, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> Markup:
    """Lines at round values of both axes, with the values beside them."""
    parts = []
    for tick in linear_ticks(y.low, y.high):
        at = round(y(tick), 1)
        parts.append(
            Markup(
                '<path class="grid" d="M{l} {at} H{r}"/><text x="{x}" y="{t}" text-anchor="end">{text}</text>'
            ).format(l=x.begin, r=x.end, at=at, x=x.begin - 7, t=round(at + 4, 1), text=y_text(tick))
        )
    for tick in log_ticks(x.low, x.high):
        at = round(x(tick), 1)
        parts.append(
            Markup(
                '<path class="grid" d="M{at} {t} V{b}"/><text x="{at}" y="{y}" text-anchor="middle">{text}</text>'
            ).format(at=at, t=y.end, b=y.begin, y=y.begin + 17, text=x_text(tick))
        )
    return Markup("").join(parts)


def axis_labels(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    """What both axes measure."""
    middle = (y.end + y.begin) / 2
    return Markup(
        '<text class="axis" x="{x}" y="{b}" text-anchor="middle">{xl}</text>'
        '<text class="axis" transform="translate(11 {m}) rotate(-90)" text-anchor="middle">{yl}</text>'
    ).format(x=(x.begin + x.end) / 2, b=y.begin + BOTTOM - 8, m=middle, xl=x_label, yl=y_label)


def _rule(rule: Rule, y: Scale) -> Markup:
    at = round(y(rule.y), 1)
    above = at - TOP > 40
    return Markup(
        '<path class="rule" d="M{l} {at} H{r}"/><text class="rule-label" x="{x}" y="{t}">{text}</text>'
    ).format(l=LEFT, r=WIDTH - RIGHT, at=at, x=LEFT + 5, t=round(at - 4 if above else at + 14, 1), text=rule.label)


def _series(series: Series, points: Sequence[Point], x: Scale, y: Scale, shift: float) -> Markup:
    parts = []
    places = [(round(x(p.x) + shift, 1), round(y(p.y), 1), p) for p in sorted(points, key=lambda p: p.x)]
    if series.line and len(places) > 1:
        path = " L".join(f"{px} {py}" for px, py, _ in places)
        parts.append(Markup('<path class="line" d="M{path}"/>').format(path=path))
    for px, _, point in places:
        if point.low is not None and point.high is not None:
            parts.append(whisker(px, round(y(point.low), 1), round(y(point.high), 1)))
    parts += [mark_at(series.marker, px, py, point.hollow) for px, py, point in places]
    return Markup('<g class="{look}" data-series="{name}">{inner}</g>').format(
        look=series.look, name=series.name, inner=Markup("").join(parts)
    )


def whisker(x: float, low: float, high: float) -> Markup:
    """An interval, in pixels."""
    return Markup('<path class="whisker" d="M{x} {lo} V{hi} M{a} {lo} H{b} M{a} {hi} H{b}"/>').format(
        x=x, lo=low, hi=high, a=round(x - 4, 1), b=round(x + 4, 1)
    )


def mark_at(kind: str, x: float, y: float, hollow: bool) -> Markup:
    """A marker, in pixels."""
    shape = _MARKERS[kind].format(x=x, y=y, x0=round(x - 4.5, 1), y0=round(y - 4.5, 1), yt=round(y - 6.5, 1))
    return Markup('<g class="{look}">{shape}</g>').format(
        look="marker hollow" if hollow else "marker", shape=Markup(shape)
    )
