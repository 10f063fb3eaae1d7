"""From a figure to its samples in at most two clicks: as many as the figure counts, judged as it says."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.reports.dimensions import dimension_view, subjects
from cnt_pipeline.reports.leaderboard import PAGE, write_leaderboard_page
from cnt_pipeline.reports.listing import BUDGET
from cnt_pipeline.reports.material import Material
from cnt_pipeline.reports.page import REPORT, write_page
from cnt_pipeline.reports.standing import limited
from cnt_pipeline.reports.suites import numbered, suite_view
from cnt_pipeline.reports.views import judge_view, pair_view, view_of
from cnt_pipeline.study.schema import Accept
from tests.unit.reports.counted import ASIDE, HOSTILE, counted_board, counted_material

from .conftest import Open, Opened

LOOK = """() => {
  const seen = e => e.checkVisibility(), view = document.querySelector('.view:target');
  return {
    view: view && view.id, heading: view && view.querySelector('h3').textContent,
    prompts: [...document.querySelectorAll('.p')].filter(seen).length,
    answers: [...document.querySelectorAll('.a')].filter(seen).map(e => [
      e.className, Number(e.style.getPropertyValue('--draws') || 1),
      e.querySelector(':scope > div > .tag').textContent]),
    links: [...(view ? view.querySelectorAll('a') : [])].map(e => [e.textContent, e.getAttribute('href')]),
    count: [...document.querySelectorAll('.count > span')].filter(seen).map(e => e.textContent).join(''),
  };
}"""
"""What a reader sees of the list."""


@dataclass
class Seen:
    """The list as it is shown."""

    view: str
    heading: str
    prompts: int
    answers: list[tuple[str, int, str]]
    links: list[tuple[str, str]]
    count: str

    def said(self, subject: str, judged: str = "") -> int:
        """Answers of a subject, counting draws, that are judged as told."""
        return sum(
            draws for classes, draws, told in self.answers
            if f"by-{subject}" in classes.split() and (not judged or judged in told.split("; "))
        )  # fmt: skip


def look(opened: Opened) -> Seen:
    return Seen(**opened.value(LOOK))


def click(opened: Opened, href: str) -> Seen:
    """Follow the first link of the page that leads there and is shown."""
    found = opened.page.locator(f"a[href='#{href}']:visible").first
    found.evaluate("link => link.click()")
    assert opened.value("location.hash") == f"#{href}"
    return look(opened)


@pytest.fixture
def material(make_material: Callable[..., Material], tmp_path: Path) -> Material:
    (tmp_path / "made").mkdir()
    return counted_material(make_material, tmp_path / "made")


@pytest.fixture
def page(material: Material, tmp_path: Path) -> Path:
    write_page(material, tmp_path)
    return tmp_path / REPORT


def test_every_figure_of_the_tables_of_samples_is_a_link(page: Path, open_page: Open) -> None:
    with open_page(page) as opened:
        cells = "[...document.querySelectorAll('table.metrics tbody td.n, table.gates td.n')]"
        assert opened.value(f"{cells}.length") > 200
        bare = opened.value(
            f"{cells}.filter(e => /[0-9]/.test(e.textContent) && !e.querySelector('a')).map(e => e.textContent)"
        )
        assert bare == []
        dashes = f"{cells}.flatMap(e => [...e.querySelectorAll('a')]).filter(e => !/[0-9]/.test(e.textContent)).length"
        assert opened.value(dashes) == 0


def test_values_lead_to_as_many_samples_as_they_count(page: Path, open_page: Open, material: Material) -> None:
    rows = [(row, None) for row in material.metrics.iter_rows(named=True)]
    sources = list(dict.fromkeys(each.source for kind in material.prompts.values() for each in kind))
    shown = ("target", "transplant", "donor")
    rows += [(row, sources.index(row["source"])) for row in material.by_source.iter_rows(named=True)
             if row["metric"] in ("refusal", "over_refusal", "utility") and row["subject"] in shown]  # fmt: skip
    assert len([row for row, place in rows if place is not None]) == 12
    with open_page(page) as opened:
        for row, place in rows:
            metric, subject = row["metric"], row["subject"]
            seen = click(opened, view_of(metric, subject, source=place))
            assert seen.prompts == row["n"], seen
            assert seen.heading.startswith(f"{row['n']} prompt")
            assert opened.value("document.activeElement.id") == seen.view
            assert all(f"by-{subject}" in classes.split() for classes, *_ in seen.answers)
            draws = 3 if subject == "control_random" else 1
            assert seen.said(subject) == draws * row["n"]
            if metric in ("refusal", "over_refusal", "coherence", "attack_success", "exact_match"):
                yes = seen.said(subject, f"{metric.replace('over_', 'over-').replace('_', ' ')}: yes")
                assert yes / seen.said(subject) == pytest.approx(row["value"]), seen
                assert f", {yes} " in seen.heading
            if row["unscored"]:
                unjudged = click(opened, f"{seen.view}-open")
                assert unjudged.prompts == row["unscored"] and "could not be judged" in unjudged.heading


def test_differences_lead_to_what_differs_and_then_to_all_pairs(
    page: Path, open_page: Open, material: Material
) -> None:
    assert material.certainty is not None
    certain = {
        (row["metric"], row["against"]): row
        for row in material.certainty.table.filter(subject="transplant", source="").iter_rows(named=True)
    }
    with open_page(page) as opened:
        links = opened.value("[...document.querySelectorAll('#certainty ~ .scroll table')][0].innerHTML")
        for (metric, against), row in certain.items():
            view = view_of(metric, "transplant", against)
            assert links.count(f'"#{view}"') == 2 or links.count(f'"#{view}-all"') >= 3, view
            assert f'"#{view}-all"' in links
            if f'"#{view}"' in links:
                few = click(opened, view)
                if row["discordant"] is not None:
                    assert few.prompts == row["discordant"]
                assert {href for _, href in few.links} >= {f"#{view}-all", "#every"}
                label = f"{metric.replace('over_', 'over-').replace('_', ' ')}: "
                for classes, *_ in few.answers:
                    assert {f"by-{against}", "by-transplant"} & set(classes.split())
                assert few.said(against) == few.said("transplant") == few.prompts
                if metric == "refusal":
                    yes = [few.said(each, f"{label}yes") for each in ("transplant", against)]
                    assert (yes[0] - yes[1]) / row["n"] == pytest.approx(row["difference"])
            every = click(opened, f"{view}-all")
            assert every.prompts == row["n"] == every.said(against) == every.said("transplant")


def test_verdicts_of_judges_lead_to_their_answers(page: Path, open_page: Open, material: Material) -> None:
    assert material.judging is not None
    names = [judge["name"] for judge in material.judging.document["judges"]]
    with open_page(page) as opened:
        for row in material.judging.shares.iter_rows(named=True):
            judge, kind, subject, verdict = row["judge"], row["kind"], row["subject"], row["verdict"]
            base = judge_view(names.index(judge), kind, subject)
            every = click(opened, base)
            assert every.prompts == row["n"]
            yes = every.said(subject, f"{judge}: {verdict}")
            assert yes / every.said(subject) == pytest.approx(row["value"])
            assert all(f"{name}: " in told for _, _, told in every.answers for name in names)
            if yes:
                some = click(opened, f"{base}-{verdict}")
                assert some.heading.startswith(f"{yes} of {every.said(subject)} answers")
                assert some.said(subject, f"{judge}: {verdict}") == yes
                assert (f"Show all {every.said(subject)}", f"#{base}") in map(tuple, some.links)


def test_agreement_leads_to_the_answers_that_both_judged(page: Path, open_page: Open, material: Material) -> None:
    assert material.judging is not None and len(material.judging.document["pairs"]) == 2
    with open_page(page) as opened:
        for at, pair in enumerate(material.judging.document["pairs"]):
            every = click(opened, pair_view(at))
            assert sum(draws for _, draws, _ in every.answers) == pair["n"]
            agreed = sum(
                draws for _, draws, told in every.answers
                if (f"phrases: {pair['question']}" in told) == (f"own: {pair['question']}" in told)
            )  # fmt: skip
            assert agreed / pair["n"] == pytest.approx(pair["agreed"]["value"]) and f"{agreed} alike" in every.heading
            opened.page.locator("select:has(option[value='dis'])").select_option("dis")
            assert sum(draws for _, draws, _ in look(opened).answers) == pair["n"] - agreed
            assert opened.page.locator(".narrowed").is_visible()
            opened.page.get_by_role("button", name="Reset filters").click()
            for part, number in (("one", pair["yes_no"]), ("other", pair["no_yes"]), ("open", pair["unjudged"])):
                if number:
                    some = click(opened, pair_view(at, part))
                    assert sum(draws for _, draws, _ in some.answers) == number
        assert any(pair["unjudged"] for pair in material.judging.document["pairs"])


def test_figures_of_suites_lead_to_their_own_rows(page: Path, open_page: Open, material: Material) -> None:
    told = {"crows_pairs": "CrowS-Pairs: yes", "refusal": "refusal: yes", "attack_success": "attack success: yes",
            "bbq_accuracy_ambiguous": "BBQ accuracy, ambiguous: yes"}  # fmt: skip
    with open_page(page) as opened:
        for at, suite in enumerate(material.suites):
            places = numbered(suite)
            for row in suite.figures.iter_rows(named=True):
                part, subject = list(places).index(row["part"]), row["subject"]
                view = suite_view(at, part, places[row["part"]][row["metric"]], subject)
                seen = click(opened, view)
                assert seen.prompts == row["n"] == seen.said(subject) == len(seen.answers), (row, seen)
                if row["unit"] == "share":
                    assert seen.said(subject, told[row["metric"]]) / row["n"] == pytest.approx(row["value"])
                if row["unscored"]:
                    assert click(opened, f"{view}-open").prompts == row["unscored"]
                if subject == "transplant":
                    both = click(opened, f"{view}-vs-target-all" if view_missing(opened, view) else f"{view}-vs-target")
                    if not both.view.endswith("-all"):
                        both = click(opened, f"{both.view}-all")
                    assert both.prompts == row["n"] == both.said("target") == both.said("transplant")


def view_missing(opened: Opened, view: str) -> bool:
    """Whether the two are judged alike throughout, so that there are only all pairs."""
    return bool(opened.value(f"!document.querySelector(`a.to[href='#{view}-vs-target']`)"))


def test_gates_lead_to_the_models_that_they_compare(page: Path, open_page: Open) -> None:
    with open_page(page) as opened:
        seen = click(opened, "v-recovery")
        assert seen.prompts == 9 and {seen.said(each) for each in ("target", "transplant", "donor")} == {9}
        seen = click(opened, f"{view_of('refusal', 'transplant', 'control_random')}-all")
        assert (seen.prompts, seen.said("transplant"), seen.said("control_random")) == (9, 9, 27)


def test_figures_on_selection_prompts_lead_to_what_was_said_there(
    page: Path, open_page: Open, material: Material
) -> None:
    assert material.selected is not None
    tables = (material.selected.trials, material.selected.frontier)
    tried, points = ({tuple(key): part for key, part in table.group_by("asked", "kind")} for table in tables)
    own = material.selection["asked"]
    places = dict(enumerate(material.frontier.iter_rows(named=True)))
    rows = [(f"t{row['number']}", row, tried, row["asked"]) for row in material.trials.iter_rows(named=True)]
    rows += [
        (f"f{place}", row, *((tried, own) if row["series"] == "transplant" else (points, row["asked"])))
        for place, row in places.items() if row["variant"] is None and row["series"] != "random"
    ]  # fmt: skip
    (mean,) = (place for place, row in places.items() if (row["series"], row["variant"]) == ("random", None))
    draws = [row for row in places.values() if row["variant"] is not None]
    rows += [(f"f{mean}-draw{n}", row, points, row["asked"]) for n, row in enumerate(draws, 1)]
    kinds = {"recovery": ("function", "refusal"), "misfire": ("lookalike", "over-refusal"), "utility": ("utility", "")}
    with open_page(page) as opened:
        opened.value("document.querySelectorAll('details').forEach(e => e.open = true)")
        cells = opened.value("""[...document.querySelectorAll('table.selected tbody tr')].flatMap(
            row => [...row.querySelectorAll('td.n')].slice(-3).map(e => [e.textContent, !!e.querySelector('a')]))""")
        assert len(cells) == 3 * 8 and all(linked == bool(re.search("[0-9]", told)) for told, linked in cells)
        every = click(opened, f"v-recovery-f{mean}")
        assert every.heading.endswith(f"{sum(round(12 * row['function']) for row in draws)} of 36 answers refused")
        for end, row, samples, asked in rows:
            for figure, (kind, metric) in kinds.items():
                view = f"v-{figure}-{end}"
                if row[figure] is None:
                    assert opened.page.locator(f"[id='{view}']").count() == 0 and (asked, kind) not in samples
                    continue
                if "-draw" in end:
                    click(opened, f"v-recovery-f{mean}")
                values = samples[asked, kind]["value"].drop_nulls()
                seen = click(opened, view)
                classes = opened.page.locator(".view:target").get_attribute("class") or ""
                (subject,) = (each.removeprefix("by-") for each in classes.split() if each.startswith("by-"))
                assert seen.prompts == len(values) == seen.said(subject) == seen.said("target") == seen.said("donor")
                assert seen.heading.startswith(f"{len(values)} prompts of the selection behind ")
                if metric:
                    yes = seen.said(subject, f"{metric}: yes")
                    assert yes / len(values) == pytest.approx(row["function" if figure == "recovery" else figure])
                if unjudged := samples[asked, kind]["value"].null_count():
                    assert click(opened, f"{view}-open").prompts == unjudged
        click(opened, "v-recovery-t0")
        opened.page.locator("select:has(option[value='bad'])").select_option("bad")
        assert look(opened).prompts == 10
        opened.page.locator("select:has(option[value='new'])").select_option("new")
        assert look(opened).prompts == 0
        opened.page.get_by_role("button", name="Reset filters").click()
        opened.page.get_by_role("link", name="Back to the figure").click()
        assert opened.value("document.activeElement.textContent") == "9.1\u00a0%"


def test_the_way_back_leads_to_the_figure(page: Path, open_page: Open) -> None:
    link = f"a[href='#{view_of('over_refusal', 'transplant')}']"
    for back in ("history", "link"):
        with open_page(page) as opened:
            figure = opened.page.locator(link).first
            figure.focus()
            opened.page.keyboard.press("Enter")
            view = opened.page.locator(".view:target")
            assert "8 prompts behind over-refusal of the transplant, 0 refused" in view.inner_text()
            assert opened.value("document.activeElement.id") == view.get_attribute("id")
            assert opened.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            if back == "history":
                opened.page.go_back()
                opened.page.wait_for_function("!location.hash")
            else:
                opened.page.keyboard.press("Tab")
                while opened.value("document.activeElement.textContent") != "Back to the figure":
                    opened.page.keyboard.press("Tab")
                opened.page.keyboard.press("Enter")
                assert opened.value("document.activeElement.textContent") == figure.inner_text().replace("\n", "")
            assert opened.page.locator(".view:target").count() == 0
            opened.page.wait_for_function(
                "link => { const r = document.querySelector(link).getBoundingClientRect();"
                " return r.top >= 0 && r.bottom <= innerHeight; }",
                arg=link,
            )


@pytest.mark.parametrize("scripts", [True, False])
def test_hostile_rows_are_text_in_every_list(page: Path, open_page: Open, scripts: bool) -> None:
    with open_page(page, width=390, java_script_enabled=scripts) as opened:
        lists = opened.page.locator("select").first.locator("option").all()
        assert len(lists) == 2 + 3 + 2 + 4 + 3
        shown = 0
        for option in lists[1:]:
            opened.page.locator("select").first.select_option(option.get_attribute("value"))
            shown += HOSTILE in opened.page.locator(".entries").inner_text()
        assert shown >= 6
        assert opened.page.title() != "owned"
        assert opened.requests == [page.as_uri()] and opened.complaints == []
        if scripts:
            assert opened.value("document.scripts.length + document.images.length") == 0
            assert opened.value("document.documentElement.scrollWidth") <= 390


def test_what_is_aside_is_in_no_pooled_list(page: Path, open_page: Open) -> None:
    with open_page(page, f"#{view_of('refusal', 'target')}") as opened:
        assert look(opened).prompts == 9 and ASIDE not in opened.page.locator(".entries").inner_text()


def test_figures_of_the_leaderboard_lead_to_their_samples(open_page: Open, tmp_path: Path) -> None:
    document, answers = counted_board(tmp_path)
    write_leaderboard_page("mini", document, Accept(), tmp_path, answers)
    with open_page(tmp_path / PAGE) as opened:
        for row in document["rows"]:
            for metric, figure in row["metrics"].items():
                if metric == "exact_match":  # shown as the task
                    continue
                seen = click(opened, view_of(metric, row["name"]))
                assert seen.prompts == figure["n"], (row["name"], metric)
                assert seen.said(row["name"]) == row["seeds"] * figure["n"]
                if metric in ("refusal", "attack_success", "coherence", "task"):
                    told = "exact match" if metric == "task" else metric.replace("_", " ")
                    yes = seen.said(row["name"], f"{told}: yes")
                    assert yes / seen.said(row["name"]) == pytest.approx(figure["value"])
            if row["method"]:
                seen = click(opened, view_of("recovery", row["name"]))
                assert seen.prompts == 9 and seen.said("target") == seen.said("donor") == 9
            if (effect := row.get("causal")) is not None:
                seen = click(opened, view_of("causal", row["name"]))
                assert seen.prompts == effect["n"] == seen.said("target") == seen.said("donor")
                yes = {who: seen.said(who, "refusal: yes") for who in ("target", "donor", f"_patched-{row['name']}")}
                assert seen.said(f"_patched-{row['name']}") == row["seeds"] * effect["n"]
                of_target, of_donor, of_patched = (count / seen.said(who) for who, count in yes.items())
                assert (of_patched - of_target) / (of_donor - of_target) == pytest.approx(effect["value"])
        assert answers.dimensions is not None
        for subject, _, figures in subjects(answers.dimensions.document):
            for at, name in enumerate(answers.dimensions.prompts):
                if name in figures:
                    seen = click(opened, dimension_view(at, subject))
                    assert seen.prompts == seen.said(subject) == figures[name]["n"] == 10
                    assert seen.said(subject, "refusal: yes") / 10 == pytest.approx(figures[name]["value"])
        cells = opened.value("[...document.querySelectorAll('.board td.n')].map(e => [e.dataset.label, e.innerHTML])")
        linked = {label for label, html in cells if "<a" in html}
        assert linked == {"Refusal", "Attack success", "Over-refusal", "Utility", "Task accuracy",
                          "Coherence", "Recovery", "Causal effect", "traps", "banks"}  # fmt: skip
        told = opened.value("[...document.querySelectorAll('main > p a')].map(e => e.textContent)")
        assert [each for each in told if "%" not in each] == [
            "9 function prompts", "8 look-alike prompts", "10 general prompts", "5 general prompts from asked.jsonl",
        ]  # fmt: skip
        assert len(told) == 4 + 3
        seeds = opened.value("[...document.querySelectorAll('th a')].map(e => [e.textContent, e.hash])")
        assert seeds == [["2 seeds: 11.1 to 22.2", "#v-refusal-dare-ties"]]
        rows = {row["name"]: row for row in document["rows"]}
        broken = opened.value("[...document.querySelectorAll('[data-label=\"Within limits\"] a')].map(e => e.hash)")
        views = {view_of(metric, name, other): (rows[name]["metrics"][metric], rows[other]["metrics"][metric])
                 for name in rows for metric, other in limited(document).items()}  # fmt: skip
        assert broken and len(set(broken)) == len(broken)
        for view in (each[1:].removesuffix("-all") for each in broken):
            if f"#{view}" in broken:
                assert "differs between" in click(opened, view).heading
            assert click(opened, f"{view}-all").prompts == views[view][0]["n"]
        bare = {label for label, html in cells if "<a" not in html and re.search("[0-9]", html.split("<small>")[0])}
        assert bare == {"Recovery", "Parameters changed", "Modules touched", "new rows"}  # 0 and 100 % by definition
        assert opened.complaints == [] and opened.requests == [(tmp_path / PAGE).as_uri()]


def test_a_long_study_stays_a_page_of_a_few_megabytes(
    make_material: Callable[..., Any], open_page: Open, tmp_path: Path
) -> None:
    plain = make_material()
    copies = range(400)
    prompts = {
        kind: [replace(each, id=f"{each.id}-{n}", messages=(("user", "w" * 900),)) for n in copies for each in rows]
        for kind, rows in plain.prompts.items()
    }
    said = {
        subject: {
            kind: [replace(each, id=f"{each.id}-{n}", text="x" * 900) for n in copies for each in rows]
            for kind, rows in by_kind.items()
        }
        for subject, by_kind in plain.said.items()
    }
    write_page(make_material(prompts=prompts, said=said), tmp_path)
    size = (tmp_path / REPORT).stat().st_size
    assert size < 2 * BUDGET
    text = (tmp_path / REPORT).read_text()
    assert re.search(r"\b192 of 2,000 prompts under “Function”", text)
