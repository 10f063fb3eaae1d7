"""The leaderboard's page: every row in its order, what is missing said in words, and the plot for those who cannot
see it."""

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.reports.board import board
from cnt_pipeline.reports.board_samples import board_browser
from cnt_pipeline.reports.dimensions import dimension_view, subject_of
from cnt_pipeline.reports.leaderboard import PAGE, TABLE, compared, conclusion, write_leaderboard_page
from cnt_pipeline.reports.plots import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Point
from cnt_pipeline.reports.scatter import HEIGHT, Named, front, scatter
from cnt_pipeline.reports.standing import best_within, ranked, standing
from cnt_pipeline.study.schema import Accept

from .counted import counted_board
from .test_page import parsed

ACCEPT = Accept()


def figure(value: float, n: int = 40, width: float = 0.05) -> dict[str, Any]:
    """A figure with its interval, and no difference to the target."""
    bounds = {"low": max(value - width, 0.0), "high": min(value + width, 1.0)}
    return {"value": value, **bounds, "n": n, "vs_target": None, "vs_target_low": None, "vs_target_high": None}


def row(name: str, refusal: float, misfire: float, utility: float, **changes: Any) -> dict[str, Any]:
    """A row of leaderboard.json on forty prompts of each kind."""
    metrics = {
        "refusal": figure(refusal), "over_refusal": figure(misfire), "utility": figure(utility),
        "coherence": figure(1.0, 120), "attack_success": figure(1 - refusal), "task": figure(utility, 20),
    }  # fmt: skip
    blank = dict.fromkeys(("method", "grade", "source", "parameters", "share", "modules", "seconds", "peak_memory"))
    return {"name": name, **blank, "metrics": metrics, "seeds": 1, "by_seed": [],
            "recovery": refusal, "recovery_low": refusal - 0.1, "recovery_high": refusal,
            "pareto": False} | changes  # fmt: skip


def method(name: str, refusal: float, misfire: float, utility: float, share: float, **changes: Any) -> dict[str, Any]:
    """A row of a method that edits."""
    about = {"method": name.replace("-", "_"), "grade": "A", "source": "arXiv 0000.00000", "parameters": share * 1e6}
    cost = {"share": share, "modules": 14.0, "seconds": 75.0, "peak_memory": 120_000_000}
    return row(name, refusal, misfire, utility, **about, **cost) | changes


def rows() -> list[dict[str, Any]]:
    return [
        row("target", 0.0, 0.0, 0.9),
        row("donor", 1.0, 0.05, 0.9),
        row("transplant", 0.95, 0.06, 0.9, method="cnt", grade="I", source="arXiv 2603.18449", parameters=1600,
            share=0.0016, pareto=True),
        method("nlsr", 0.9, 0.05, 0.88, 0.12, seeds=3, by_seed=[0.85, 0.9, 0.95]),
        method("task-arithmetic", 1.0, 0.4, 0.7, 0.98, pareto=True),
        method("fgsn", 0.4, 0.05, 0.9, 0.02, grade="B"),
    ]  # fmt: skip


def document(**changes: Any) -> dict[str, Any]:
    """A leaderboard.json of four methods that add refusal."""
    metrics = ["refusal", "over_refusal", "utility", "coherence", "attack_success", "exact_match", "task"]
    return {"metric": "refusal", "misfire": "over_refusal", "direction": "add", "task": "sums",
            "metrics": metrics, "rows": rows()} | changes  # fmt: skip


def written(folder: Path, **changes: Any) -> tuple[str, str]:
    write_leaderboard_page("mini", document(**changes), ACCEPT, folder)
    page = (folder / PAGE).read_text(encoding="utf-8").replace("\u00a0", " ")
    return page, (folder / TABLE).read_text(encoding="utf-8")


def cells(name: str, **changes: Any) -> dict[str, tuple[str, str]]:
    """Text and detail of a row's cells by column."""
    made = board(document(**changes), ACCEPT)
    at = [heading.name for heading in made.rows].index(name)
    return {c.name: (c.cells[at].text.replace("\u00a0", " "), c.cells[at].detail) for c in made.columns}


def test_references_come_first_and_methods_follow_by_recovery() -> None:
    assert [each["name"] for each in ranked(rows())] == [
        "target", "donor", "task-arithmetic", "transplant", "nlsr", "fgsn",
    ]  # fmt: skip
    lost = [each | {"recovery": None} if each["name"] == "task-arithmetic" else each for each in rows()]
    assert ranked(lost)[-1]["name"] == "task-arithmetic"


def test_the_limits_are_those_of_the_verdict() -> None:
    found = {each["name"]: standing(document(), each, ACCEPT) for each in rows()}
    assert found["transplant"].holds is True
    assert found["transplant"].limits[0].harm == pytest.approx(0.01)
    assert [found["nlsr"].keeps(metric) for metric in ("over_refusal", "utility", "task")] == [True, False, False]
    assert found["task-arithmetic"].holds is False
    at_the_limit = method("edge", 0.5, 0.05 + ACCEPT.over_refusal, 0.9 - ACCEPT.utility_loss, 0.1)
    assert standing(document(), at_the_limit, ACCEPT).holds is True
    best = best_within(document(), ACCEPT)
    assert best is not None and best["name"] == "transplant"


def test_every_row_says_what_it_breaks() -> None:
    assert cells("nlsr", task=None)["within limits"] == ("no", "utility −2.0\u00a0points")
    assert cells("task-arithmetic")["within limits"] == (
        "no", "over-refusal +35.0\u00a0points; utility −20.0\u00a0points; task accuracy −20.0\u00a0points",
    )  # fmt: skip
    made = board(document(), ACCEPT)
    (column,) = (column for column in made.columns if column.name == "within limits")
    cell = column.cells[[heading.name for heading in made.rows].index("task-arithmetic")]
    assert [view for _, view in cell.breaks] == [
        "v-over_refusal-task-arithmetic-vs-donor", "v-utility-task-arithmetic-vs-target",
        "v-task-task-arithmetic-vs-target",
    ]  # fmt: skip
    assert "; ".join(text for text, _ in cell.breaks) == cell.detail
    spared = rows()
    spared[3]["metrics"]["utility"] = figure(0.9)
    assert cells("nlsr", rows=spared)["within limits"] == ("no", "task accuracy −2.0\u00a0points")
    assert cells("The study's own method")["within limits"] == ("yes", "")
    assert cells("Donor")["within limits"] == ("–", "")


def test_the_table_holds_every_figure_with_its_interval() -> None:
    nlsr = cells("nlsr")
    assert list(nlsr) == [
        "refusal", "attack success", "over-refusal", "utility", "task accuracy", "coherence", "recovery",
        "within limits", "parameters changed", "modules touched", "wall time", "peak memory",
    ]  # fmt: skip
    assert nlsr["refusal"] == ("90.0 %", "85.0 to 95.0")
    assert nlsr["parameters changed"] == ("120,000", "12.00\u00a0%")
    assert nlsr["modules touched"][0] == "14"
    assert (nlsr["wall time"][0], nlsr["peak memory"][0]) == ("1 min 15 s", "120.0 MB")


CAUSE = {"value": 0.875, "low": 0.8, "high": 0.925, "n": 40, "why": None,
         "patched": {"value": 0.875, "low": 0.8, "high": 0.9}}  # fmt: skip


def caused(**changes: Any) -> list[dict[str, Any]]:
    """The rows, with a causal effect of nlsr."""
    return [each | {"causal": CAUSE | changes} if each["name"] == "nlsr" else each for each in rows()]


def test_a_causal_effect_is_a_column_and_a_sentence_of_its_own(tmp_path: Path) -> None:
    assert list(cells("nlsr", rows=caused()))[6:8] == ["recovery", "causal effect"]
    assert cells("nlsr", rows=caused())["causal effect"] == ("87.5 %", "80.0\u00a0% to 92.5\u00a0%")
    assert cells("fgsn", rows=caused())["causal effect"] == cells("Donor", rows=caused())["causal effect"] == ("–", "")
    page, table = written(tmp_path, rows=caused())
    for text in (page, table.replace("\\", "")):
        assert "activations in the neurons of nlsr bring the target 87.5 % (80.0 % to 92.5 %)" in text
        assert "at every token of prompt and answer" in text
    assert parsed(page).misplaced == []
    assert "ausal effect" not in "".join(written(tmp_path))


def test_a_causal_effect_that_is_undefined_is_said_so(tmp_path: Path) -> None:
    undefined = caused(value=None, low=None, high=None, why="there is nothing to cover")
    assert cells("nlsr", rows=undefined)["causal effect"] == ("undefined", "")
    for text in written(tmp_path, rows=undefined):
        assert "Causal effect of the neurons of nlsr: undefined, since there is nothing to cover." in text


def test_causal_effects_and_dimensions_lead_to_samples_of_their_own(tmp_path: Path) -> None:
    made, answers = counted_board(tmp_path)
    found = board_browser(made, answers)
    assert [shelf.title for shelf in found.shelves] == [
        "Function", "Look-alike", "General", "Dimension traps", "Dimension banks",
    ]  # fmt: skip
    effect = found.views["v-causal-nlsr"]
    assert effect.heading == "9 prompts behind the causal effect of the neurons of nlsr"
    assert (effect.subject, effect.beside, effect.lists) == ("_patched-nlsr", ("target", "donor"), ("function",))
    assert found.subjects["_patched-nlsr"] == "Target, neurons of nlsr patched"
    twice = found.shelves[0].entries[3].answers
    assert [each.draws for each in twice if "by-_patched-dare-ties" in each.classes.split()] == [2]
    step = found.views[dimension_view(0, subject_of("nlsr", 2))]
    assert step.heading == "10 prompts of the dimension traps behind refusal of nlsr after banks, 6 refused"
    assert step.text == "60.0\u00a0%. As wanted: 6, not as wanted: 4." and step.lists == ("d0",)
    assert dimension_view(1, subject_of("nlsr", 1)) not in found.views  # not asked yet
    assert found.wanted.endswith("utility on general prompts, and refusal on those of dimensions.")

    write_leaderboard_page("mini", made, ACCEPT, tmp_path, answers)
    page = (tmp_path / PAGE).read_text(encoding="utf-8")
    tags = parsed(page)
    assert tags.open == [] and tags.misplaced == [] and len(set(tags.ids)) == len(tags.ids)
    for view in ("v-causal-nlsr", "v-d0-target", "v-d1-donor", "v-d1-_step2-nlsr"):
        assert f'href="#{view}"' in page and view in tags.ids and f"f{view[1:]}" in tags.ids, view
    assert page.count('id="f-causal-nlsr"') == 1
    assert '<td class="n" data-label="Causal effect"><a class="to" id="f-causal-nlsr"' in page
    assert "<a" not in (tmp_path / TABLE).read_text(encoding="utf-8")


def test_an_effect_that_is_undefined_has_no_view(tmp_path: Path) -> None:
    made, answers = counted_board(tmp_path)
    for each in made["rows"]:
        if each["name"] == "nlsr":
            each["causal"] |= {"value": None, "low": None, "high": None, "why": "there is nothing to cover"}
    found = board_browser(made, answers).views
    assert "v-causal-nlsr" not in found and "v-causal-dare-ties" in found


def test_what_is_missing_is_said_and_is_no_zero(tmp_path: Path) -> None:
    mute = rows()
    del mute[3]["metrics"]["over_refusal"], mute[3]["metrics"]["refusal"]
    mute[3] |= {"recovery": None, "peak_memory": None, "by_seed": []}
    found = cells("nlsr", rows=mute)
    assert found["over-refusal"] == ("not judged", "") and found["within limits"][0] == "no"
    assert (found["recovery"][0], found["peak memory"][0]) == ("–", "–")
    own = cells("The study's own method")
    assert own["wall time"][0] == own["modules touched"][0] == "–"
    page, table = written(tmp_path, rows=mute)
    assert "Not drawn: nlsr (not judged)." in page
    assert "not judged" in table
    for metric in ("over_refusal", "utility", "task"):
        del mute[4]["metrics"][metric]
    assert cells("task-arithmetic", rows=mute)["within limits"] == (
        "not judged", "over-refusal not judged; utility not judged; task accuracy not judged",
    )  # fmt: skip


def test_seeds_are_counted_and_their_range_is_shown(tmp_path: Path) -> None:
    page, table = written(tmp_path)
    assert "3 seeds: 85.0 to 95.0" in page
    assert "3 seeds: 85.0 to 95.0" in table
    assert "1 seeds" not in page


def test_the_page_says_what_was_compared_and_what_came_of_it(tmp_path: Path) -> None:
    page, table = written(tmp_path)
    for text in (page, table.replace("\\", "")):
        assert "Four methods that raise refusal in the same target" in text
        assert "40 function prompts, 40 look-alike prompts and 40 general prompts" in text
        assert "20 general prompts from sums" in text
        assert "method (cnt) recovers most: 95.0 % of the way" in text
        assert "Whatever it costs, task-arithmetic does: 100.0 %." in text
        assert "exclude probes" in text
    assert "grade B" in page and "known from peer review" in page


def test_without_anything_within_the_limits_that_is_said() -> None:
    strict = Accept(over_refusal=0.0, utility_loss=0.0)
    bad = [each for each in rows() if each["name"] not in ("transplant", "fgsn")]
    assert conclusion(document(rows=bad), strict).startswith("No method keeps within the study's limits on misfires")
    nowhere = [each | {"recovery": None} for each in rows()]
    assert "does not lead the target" in conclusion(document(rows=nowhere), ACCEPT)


def test_the_pareto_front_is_marked_in_words(tmp_path: Path) -> None:
    page, table = written(tmp_path)
    assert page.count("◆ Pareto front") == 2
    lines = {line.split("|")[1].strip(): line.rstrip(" |").rsplit("|", 1)[1].strip() for line in table.splitlines()
             if line.startswith("| **")}  # fmt: skip
    assert lines["**task-arithmetic**"] == "yes"
    assert lines["**fgsn**"] == "no" and lines["**Donor** whole, for reference"] == "–"


def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path) -> None:
    page, _ = written(tmp_path)
    tags = parsed(page)
    assert tags.open == [] and tags.misplaced == [] and tags.links == []
    assert len(set(tags.ids)) == len(tags.ids)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", page)
    assert tags.names.isdisjoint({"script", "link", "img", "iframe", "object", "base"})
    assert "default-src 'none'" in page and 'tabindex="0"' in page


def test_names_and_sources_are_escaped(tmp_path: Path) -> None:
    bad = "</style><img src=x onerror=alert(1)>|x"
    strange = [*rows(), method(bad, 0.2, 0.0, 0.9, 0.5) | {"source": bad}]
    page, table = written(tmp_path, rows=strange, study=bad, task=bad)
    assert parsed(page).names.isdisjoint({"script", "img"})
    assert parsed(page).misplaced == []
    assert not re.search(r"(?<!\\)<img|(?<!\\)\|x", table)


def test_the_same_document_gives_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert written(tmp_path) == written(tmp_path / "again")
    assert str(tmp_path) not in written(tmp_path)[0]


def test_a_deletion_reads_lower_as_better() -> None:
    gaps = [
        each | {"metrics": {"pronoun_gap": figure(1 - each["metrics"]["refusal"]["value"]),
                            "lookalike_error": figure(0.1), "utility": figure(0.9), "coherence": figure(1.0)}}
        for each in rows()
    ]  # fmt: skip
    metrics = ["pronoun_gap", "lookalike_error", "utility", "coherence", "exact_match"]
    changed = document(metric="pronoun_gap", misfire="lookalike_error", direction="delete", task=None, metrics=metrics,
                       rows=gaps)  # fmt: skip
    assert "lower pronoun gap" in compared(changed)[0][0]
    made = board(changed, ACCEPT)
    assert [c.name for c in made.columns][:5] == [
        "pronoun gap", "look-alike error", "utility", "coherence", "recovery",
    ]  # fmt: skip
    assert made.columns[0].remark == "lower is better"
    assert made.columns[0].cells[0].text == "1.000"


def named(name: str, x: float, y: float) -> Named:
    return Named(name, Point(x, y, y - 5, y + 5), "s-path", "circle")


def drawn(points: list[Named], sign: int = 1) -> ET.Element:
    svg = scatter("one", "A & B", "words", points, sign, "x", "y", lambda v: f"{v:g}", lambda v: f"{v:g}")
    return ET.fromstring(str(svg))


def test_the_front_of_the_plot_is_the_best_for_at_most_so_much() -> None:
    points = [named("d", 8, 70), named("a", 1, 50), named("c", 4, 80), named("b", 2, 40), named("twin", 4, 80)]
    assert [each.name for each in front(points, 1)] == ["a", "c", "twin"]
    assert [each.name for each in front(points, -1)] == ["a", "b"]
    assert front([], 1) == []


def test_the_front_is_a_step_line_through_filled_marks_to_the_edge() -> None:
    svg = drawn([named("a", 1, 50), named("b", 10, 20), named("c", 100, 90)])
    (path,) = (node.get("d", "") for node in svg.iter("path") if node.get("class") == "front")
    circles = [(float(node.get("cx", "nan")), float(node.get("cy", "nan"))) for node in svg.iter("circle")]
    (ax, ay), _, (cx, cy) = circles
    assert path == f"M{ax} {ay} H{cx} V{cy} H{WIDTH - RIGHT}"
    assert [node.get("class") for node in svg.iter("g") if "marker" in (node.get("class") or "")] == [
        "marker", "marker hollow", "marker",
    ]  # fmt: skip
    assert [svg.findtext("title"), svg.findtext("desc")] == ["A & B", "words"]


def test_names_keep_clear_of_each_other_and_of_the_frame() -> None:
    points = [named(f"method-number-{n}", 1 + n / 20, 90 + n % 2) for n in range(6)] + [named("the-last-one", 90, 5)]
    svg = drawn(points)
    boxes = []
    for node in svg.iter("text"):
        if node.get("class") == "name":
            wide = 6.4 * len(node.text or "")
            x, y = float(node.get("x", "nan")), float(node.get("y", "nan")) - 4
            left = {"start": x, "end": x - wide, "middle": x - wide / 2}[node.get("text-anchor", "")]
            boxes.append((left, y - 6.5, left + wide, y + 6.5))
    assert len(boxes) == len(points)
    for n, one in enumerate(boxes):
        assert one[0] >= LEFT - 0.2 and one[2] <= WIDTH - RIGHT + 0.2
        assert one[1] >= TOP - 0.2 and one[3] <= HEIGHT - BOTTOM + 0.2
        for other in boxes[n + 1 :]:
            overlaps = one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
            assert not overlaps


def test_a_plot_without_points_is_still_a_frame() -> None:
    svg = drawn([])
    assert [node for node in svg.iter("path") if node.get("class") == "front"] == []


def test_of_equal_recoveries_the_smaller_change_comes_first() -> None:
    def row(name: str, parameters: float | None, recovery: float | None) -> dict[str, Any]:
        return {"name": name, "parameters": parameters, "recovery": recovery}

    listed = [
        row("a", 9, 1.0),
        row("b", 5, 1.0 - 1e-12),
        row("c", None, 1.0),
        row("d", 1, 0.5),
        row("target", None, 0.0),
    ]
    assert [each["name"] for each in ranked(listed)] == ["target", "b", "a", "c", "d"]
