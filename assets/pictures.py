"""Small pictures for the UI's metadata: SVG in a Markdown image, a few kB each."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cnt_pipeline.reports.plots import Point, Series, line_plot

_STYLE = """<style>
svg{background:#fff;font:12px sans-serif}.grid{stroke:#e3e3e3}.axis{fill:#444}.rule{stroke:#999;stroke-dasharray:3 3}
.line,.whisker{fill:none;stroke:currentColor;stroke-width:2}.marker{fill:currentColor}
.a{color:#0b63b5}.b{color:#b5550b}.c{color:#6b6b6b}.d{color:#0a7d3c}.e{color:#7a3fb0}.f{color:#0f7285}
</style>"""
_SERIES = {
    "path": ("a", "circle"),
    "gradient": ("e", "down"),
    "contrast": ("f", "plus"),
    "largest_delta": ("b", "triangle"),
    "random": ("c", "square"),
    "transplant": ("d", "diamond"),
}
"""Colour and marker by effect or series."""
_CELL = (46, 22)


def markdown(svg: str, title: str) -> str:
    """The picture as a Markdown image that needs no network."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def frontier(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recovery by share of parameters, from the rows of `frontier.parquet`: a line for every effect (at the first
    amplitude and look-alike weight drawn, the chosen one) and control, a point for the transplant."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        name = row["effect"] if row["series"] == "effect" else row["series"]
        if row["variant"] is None and name in _SERIES:
            first = lines.setdefault(name, [row])[0]
            if row is not first and all(row[key] == first[key] for key in ("eta", "lookalike_weight")):
                lines[name].append(row)
    series = [
        Series(
            name,
            [Point(row["share"], row["recovery"], row["low"], row["high"]) for row in lines[name]],
            *look,
            line=name != "transplant",
        )
        for name, look in _SERIES.items()
        if name in lines
    ]
    legend = "".join(
        f'<text class="{one.look}" x="{66 + 70 * place}" y="26" fill="currentColor">'
        f"{escape(one.name.replace('_', ' '))}</text>"
        for place, one in enumerate(series)
    )
    plot = str(
        line_plot(
            "frontier",
            "Recovery",
            "Recovery on selection prompts against the share of parameters moved.",
            series,
            "share of parameters",
            "recovery",
            lambda value: f"{value:.2%}",
            lambda value: f"{value:.0%}",
            y_range=(0.0, 1.25),
        )
    )
    return _standing_alone(plot, legend)


def training(rows: Sequence[Mapping[str, Any]]) -> str:
    """Loss by optimiser step, from the rows of `training.parquet`; long trainings as means of neighbouring steps."""
    width = max(1, len(rows) // _TRAINING_POINTS)
    groups = [rows[first : first + width] for first in range(0, len(rows), width)]
    points = [Point(group[-1]["step"], sum(row["loss"] for row in group) / len(group)) for group in groups]
    plot = line_plot(
        "training",
        "Training",
        "Loss on the lessons' answers against the optimiser step.",
        [Series("loss", points, "a", "dot")],
        "step",
        "nats per answer token",
        lambda value: f"{value:.0f}",
        lambda value: f"{value:.2f}",
        y_range=(0.0, max(point.y for point in points)),
    )
    return _standing_alone(str(plot))


_TRAINING_POINTS = 60


def _standing_alone(plot: str, legend: str = "") -> str:
    """A figure of a page as a picture with its own size, style and legend."""
    head, tail = plot.split(">", 1)
    sized = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" width="460" height="300" ')
    return f"{sized}>{_STYLE}{tail.removesuffix('</svg>')}{legend}</svg>"


def heat_map(title: str, places: Mapping[tuple[int, str], int]) -> str:
    """Neurons by layer (down) and family (across), with the counts written in."""
    families = list(dict.fromkeys(family for _, family in sorted(places)))
    layers = range(max(layer for layer, _ in places) + 1)
    most = max(places.values())
    wide, high = _CELL
    cells = []
    for row, layer in enumerate(layers):
        cells.append(f'<text x="34" y="{46 + row * high}" text-anchor="end">{layer}</text>')
        for column, family in enumerate(families):
            count = places.get((layer, family), 0)
            x, y = 40 + column * wide, 30 + row * high
            ink = "#fff" if count > most / 2 else "#222"
            cells.append(
                f'<rect x="{x}" y="{y}" width="{wide - 1}" height="{high - 1}" '
                f'fill="#0b63b5" fill-opacity="{count / most:.2f}"/>'
                f'<text x="{x + wide / 2}" y="{y + 15}" text-anchor="middle" fill="{ink}">{count}</text>'
            )
    names = "".join(
        f'<text x="{40 + wide * (column + 0.5)}" y="22" text-anchor="middle">{escape(family)}</text>'
        for column, family in enumerate(families)
    )
    width, height = 48 + wide * len(families), 38 + high * len(layers)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
        f"<title>{escape(title)}</title>{_STYLE}{names}{''.join(cells)}</svg>"
    )
