"""The frontier in the report: its series and how each looks, its points as rows, and what each series needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material
from cnt_pipeline.reports.plots import Point, Series, legend_mark
from cnt_pipeline.reports.views import point_view

_LOOKS = {
    "path": ("s-path", "circle"),
    "gradient": ("s-gradient", "down"),
    "contrast": ("s-contrast", "plus"),
    "random": ("s-random", "square"),
    "largest_delta": ("s-delta", "triangle"),
    "transplant": ("s-transplant", "diamond"),
    "whole_donor": ("s-donor", "star"),
}
"""Class (colour and dash) and marker by effect or series. Variants of one (look-alike weight, amplitude) are hollow."""
SINGLE = ("transplant", "whole_donor")
"""Series of one point."""
NAMES = ("series", "effect", "eta", "lookalike_weight")


@dataclass(frozen=True)
class Drawn:
    """One series: its name in words, how it looks, and its rows of `frontier.parquet` by share, with their `place`."""

    key: tuple[Any, ...]
    name: str
    look: str
    marker: str
    hollow: bool
    rows: tuple[Mapping[str, Any], ...]

    @property
    def line(self) -> bool:
        """Whether its points are joined."""
        return self.key[0] not in SINGLE

    def mark(self) -> Markup:
        """Its line and marker, for the legend."""
        return legend_mark(self.look, self.marker, self.line, self.hollow)

    def series(self, value: str, factor: float = 100.0, offset: float = 0.0, intervals: bool = False) -> Series:
        """Points of `factor * (value - offset)` against the share in percent; what was not asked has no point."""
        points = [
            Point(
                100 * row["share"],
                factor * (row[value] - offset),
                100 * row["low"] if intervals else None,
                100 * row["high"] if intervals else None,
                self.hollow,
            )
            for row in self.rows
            if row[value] is not None
        ]
        return Series(self.name, points, self.look, self.marker, self.line)


def drawn(material: Material) -> list[Drawn]:
    """Every series of the frontier; the transplant comes last, so that nothing hides it."""
    rows: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in material.frontier.with_row_index("place").iter_rows(named=True):
        if row["variant"] is None:
            rows.setdefault(tuple(row[name] for name in NAMES), []).append(row)
    found, used = [], dict.fromkeys(_LOOKS, 0)
    for key, members in rows.items():
        kind = key[1] if key[0] == "effect" else key[0]
        look, marker = _LOOKS[kind]
        found.append(Drawn(key, name_of(key, list(rows)), look, marker, used[kind] % 2 == 1, tuple(members)))
        used[kind] += 1
    return sorted(found, key=lambda one: one.key[0] == "transplant")


def name_of(key: tuple[Any, ...], among: Sequence[tuple[Any, ...]]) -> str:
    """A series in words; look-alike weight and amplitude only where another series differs in nothing else."""
    series, effect, eta, weight = key
    if series != "effect":
        name = words.SERIES_NAMES[series]
        several = {other[2] for other in among if other[0] == series}
        return f"{name}, eta {words.setting(eta)}" if len(several) > 1 and eta is not None else name
    name = f"top of the {effect} ranking"
    same = [other for other in among if other[:2] == key[:2]]
    if len({other[3] for other in same}) > 1:
        name += f", lambda {words.setting(weight)}"
    if len({other[2] for other in same}) > 1:
        name += f", eta {words.setting(eta)}"
    return name


def rows(material: Material) -> list[dict[str, str]]:
    """The points as rows of text."""
    misfire = MISFIRES[material.metric]
    return [
        {
            "view": point_view(row["place"]),
            "series": one.name,
            "neurons": words.number(row["neurons"]),
            "share": words.share(row["share"]),
            "recovery": words.percent(row["recovery"]),
            "interval": words.interval("utility", row["low"], row["high"]),
            "misfire": words.amount(misfire, row["misfire"]),
            "utility": words.amount("utility", row["utility"]),
        }
        for one in drawn(material)
        for row in one.rows
    ]


@dataclass(frozen=True)
class NeededRow:
    """What one series needs at every recovery looked up, the transplant's own last; a cell has a remark or none."""

    name: str
    cells: tuple[tuple[str, str], ...]
    best: bool


def levels(material: Material) -> list[str]:
    """The recoveries looked up, in words."""
    *fixed, own = material.needed["levels"]
    return [*(words.percent(level, 0) for level in fixed), f"{words.percent(own)} (the transplant’s own)"]


def needed_rows(material: Material) -> list[NeededRow]:
    """Share of all parameters that every series needs, the transplant first."""
    wanted, own = material.needed["levels"], material.needed["transplant"]
    entries = material.needed["series"]
    keys = [tuple(entry[name] for name in NAMES) for entry in entries]
    here = words.share(own["share"])
    first = NeededRow(
        words.SERIES_NAMES["transplant"],
        tuple(
            (words.NOT_REACHED, "")
            if own["recovery"] < level
            else (here if level == own["recovery"] else f"≤{words.SPACE}{here}", "")
            for level in wanted
        ),
        True,
    )
    return [
        first,
        *(
            NeededRow(name_of(key, keys), tuple(needed_words(each) for each in entry["needed"]), False)
            for key, entry in zip(keys, entries, strict=True)
        ),
    ]


def needed_words(needed: Mapping[str, Any]) -> tuple[str, str]:
    """One cell of that table, and its remark."""
    share = words.share(needed["share"])
    return {
        "between": (share, ""),
        "at_most": (f"≤{words.SPACE}{share}", ""),
        "not_reached": (words.NOT_REACHED, f"up to {share}"),
    }[needed["how"]]


def conclusion(material: Material) -> str:
    """Whether the transplant does with fewer parameters than any control, in one sentence."""
    own, fewer = material.needed["transplant"], material.needed["fewer_than_controls"]
    what = f"{words.percent(own['recovery'])} with {words.share(own['share'])} of all parameters"
    if fewer is None:
        return "On the selection prompts the transplant recovers nothing, so there is nothing to compare."
    controls = [entry for entry in material.needed["series"] if entry["series"] in ("random", "largest_delta")]
    keys = [tuple(entry[name] for name in NAMES) for entry in controls]
    parts = []
    for key, entry in zip(keys, controls, strict=True):
        last, share = entry["needed"][-1], words.share(entry["needed"][-1]["share"])
        parts.append(
            {
                "between": f"{name_of(key, keys)} need {share}",
                "at_most": f"{name_of(key, keys)} need at most {share}",
                "not_reached": f"{name_of(key, keys)} do not reach that with {share}",
            }[last["how"]]
        )
    verdict = "fewer than any control needs" if fewer else "which is not fewer than every control was seen to need"
    return f"On the selection prompts the transplant recovers {what}, {verdict}: {'; '.join(parts)}."
