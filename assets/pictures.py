"""Small pictures for the UI's metadata: SVG in a Markdown image, a few kB each."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cnt_pipeline.reports.plots import Point, Series, line_plot

_STYLE = """<style>
svg{background:#fff;font:12px sans-serif}.grid{stroke:#e3e3e3}.axis{fill:#444}.rule{stroke:#999;stroke-dasharray:3 3}
.line,.whisker{fill:none;stroke:currentColor;stroke-width:2}.marker{fill:currentColor}
.a{color:#0b63b5}.b{color:#b5550b}.c{color:#6b6b6b}.d{color:#0a7d3c}
</style>"""
_SERIES = {
    "transplant": ("d", "diamond"),
    "ranking": ("a", "circle"),
    "largest_delta": ("b", "square"),
    "random": ("c", "triangle"),
}
_CELL = (46, 22)


def markdown(svg: str, title: str) -> str:
    """The picture as a Markdown image that needs no network."""
    return f"![{title}](data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()})"


def recovery_curve(rows: Sequence[Mapping[str, Any]]) -> str:
    """Recovery by share of parameters, a line per series, from the rows of `curve.parquet`."""
    series = [
        Series(
            name,
            [Point(row["share"], row["recovery"], row["low"], row["high"]) for row in rows if row["series"] == name],
            look,
            marker,
            line=name != "transplant",
        )
        for name, (look, marker) in _SERIES.items()
    ]
    legend = "".join(
        f'<text class="{look}" x="{66 + 96 * place}" y="26" fill="currentColor">{escape(name.replace("_", " "))}</text>'
        for place, (name, (look, _)) in enumerate(_SERIES.items())
    )
    plot = str(
        line_plot(
            "curve",
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
