"""The lineage as a picture with links: which step came from which, and where the page tells of it."""

from collections.abc import Collection
from dataclasses import dataclass

from markupsafe import Markup

from cnt_pipeline.reports import words
from cnt_pipeline.reports.layers import NODE_HEIGHT, NODE_WIDTH, Place, draw
from cnt_pipeline.reports.material import Material, Origin

SECTIONS = {
    "models/pair": "pair",
    "models/matched": "pair",
    "prompt_sets/roles": "every",
    "activation_caches": "completeness",
    "neuron_rankings": "moved",
    "transplants/selection": "search",
    "transplants/checkpoint": "moved",
    "transplants/controls": "metrics",
    "evaluations/scores": "metrics",
    "evaluations/frontier": "frontier",
    "evaluations/stability": "stability",
    "evaluations/verdict": "gates",
}
"""Section of the page that tells of a step or of a stage; other steps lead to their digests."""

_LONGEST = 20
"""Letters of a step's name that fit into its box."""


@dataclass(frozen=True)
class Row:
    """One step of the table beside the picture: `parents` as (key, id of their digests), digests shortened."""

    key: str
    id: str
    section: str
    parents: tuple[tuple[str, str], ...]
    fingerprint: str
    digest: str


def step_id(material: Material, key: str) -> str:
    """Id of the place on the page where a step's digests are."""
    return f"step-{[origin.key for origin in material.origins].index(key) + 1}"


def rows(material: Material) -> list[Row]:
    """Every step with what it was made from, in the order of the chain."""
    known = {origin.key for origin in material.origins}
    return [
        Row(
            key=origin.key,
            id=step_id(material, origin.key),
            section=_section(material, origin.key),
            parents=tuple((name, step_id(material, name)) for name in _parents(origin, known)),
            fingerprint=origin.fingerprint[:8],
            digest=origin.digest[:8],
        )
        for origin in material.origins
    ]


def _section(material: Material, key: str) -> str:
    if key.startswith("completions/") and key.endswith("/test"):
        return "every"
    if key in {f"models/{recipe.name}" for recipe in material.recipes}:
        return "recipes"
    return SECTIONS.get(key) or SECTIONS.get(key.split("/")[0], "")


def _parents(origin: Origin, known: Collection[str]) -> list[str]:
    return [name for name in origin.made_from if name in known]


def picture(material: Material) -> Markup:
    """The graph as inline SVG; the table beside it says the same in words."""
    told = rows(material)
    drawing = draw({row.key: [name for name, _ in row.parents] for row in told})
    number = {row.key: place for place, row in enumerate(told)}
    parts = [
        Markup('<path class="edge of-{a} of-{b}" d="{path}"/>').format(a=number[a], b=number[b], path=_path(points))
        for (a, b), points in drawing.edges.items()
    ]
    parts += [_node(row, number[row.key], drawing.nodes[row.key]) for row in told]
    return Markup(
        '<svg class="graph" viewBox="0 0 {w} {h}" style="max-width: {w}px" role="group" '
        'aria-labelledby="graph-title graph-text"><title id="graph-title">{title}</title>'
        '<desc id="graph-text">{text}</desc>{inner}</svg>'
    ).format(
        w=round(drawing.width),
        h=round(drawing.height),
        title="Lineage of the report",
        text=f"{len(told)} steps from models and prompts above to the verdict below; the table below names the steps "
        "that each one was made from.",
        inner=Markup("").join(parts),
    )


def _path(points: tuple[Place, ...]) -> str:
    """A line from the lower side of the first box to the upper side of the last, upright where it passes a row."""
    half = NODE_HEIGHT / 2
    (x, y), *rest = points
    path, y = f"M{x:g} {y + half:g}", y + half
    for place, (to_x, middle) in enumerate(rest, 1):
        last = place == len(rest)
        top = middle - half
        bend = (top - y) / 2
        path += f" C{x:g} {y + bend:g} {to_x:g} {top - bend:g} {to_x:g} {top:g}"
        x, y = to_x, top
        if not last:
            y = middle + half
            path += f" V{y:g}"
    return path


def _node(row: Row, number: int, place: Place) -> Markup:
    stage, _, name = row.key.partition("/")
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    made = f"made from {words.listed([key for key, _ in row.parents])}" if row.parents else "read from outside"
    return Markup(
        '<a href="#{to}" class="node n{n} stage-{stage}" aria-label="{key}: {made}; digest {digest}">'
        '<title>{key}: {made}</title><rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>'
        '<text class="under" x="{tx:g}" y="{y1:g}">{stage}</text><text x="{tx:g}" y="{y2:g}">{short}</text>'
        '<text class="under" x="{tx:g}" y="{y3:g}">{digest}</text></a>'
    ).format(
        to=row.section or row.id, n=number, stage=stage, key=row.key, made=made, digest=row.digest,
        x=place[0] - NODE_WIDTH / 2, y=place[1] - NODE_HEIGHT / 2, w=NODE_WIDTH, h=NODE_HEIGHT,
        tx=place[0] - NODE_WIDTH / 2 + 9, y1=place[1] - 13, y2=place[1] + 4, y3=place[1] + 20, short=short,
    )  # fmt: skip
