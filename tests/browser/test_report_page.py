"""The report in a real browser: silent, offline, filtered without scripts; legible on paper, phone and in the dark."""

import base64
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cnt_pipeline.reports.leaderboard import write_leaderboard_page
from cnt_pipeline.study.schema import Accept
from tests.unit.reports.test_leaderboard_page import document as board_document

from .conftest import HOSTILE, Open
from .contrast import TOO_FAINT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PHONE, DESKTOP = 390, 1200
SHOWN = "[...document.querySelectorAll('.p')].filter(e => e.checkVisibility())"
HEADINGS = "[...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map(e => Number(e.tagName[1]))"

LEVELS = """async source => {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height), pen = canvas.getContext('2d');
  pen.drawImage(image, 0, 0);
  const counts = Array(256).fill(0);
  const bytes = pen.getImageData(0, 0, image.width, image.height).data;
  bytes.forEach((value, n) => { if (n % 4 === 1) counts[value] += 1; });
  return counts;
}"""
"""How many pixels of a picture have each level of green."""


@pytest.fixture(params=["hostile_page", "real_page"])
def page_file(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def choose(page: "Page", value: str) -> None:
    """Choose the option with this value in whichever filter has it."""
    page.locator(f"select:has(option[value='{value}'])").select_option(value)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_page_opens_from_a_file_without_a_complaint_a_request_or_overflow(
    page_file: Path, open_page: Open, scheme: str, width: int
) -> None:
    with open_page(page_file, color_scheme=scheme, width=width) as opened:
        choose(opened.page, "in-any")
        opened.value("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert opened.requests == [page_file.as_uri()]
        assert opened.complaints == []
        assert opened.page.title() != "owned"
        assert opened.value("document.documentElement.scrollWidth") <= width
        boxes = "[...document.querySelectorAll('main table, main svg.graph')].filter(e => !e.closest('.scroll'))"
        right = opened.value(f"Math.max(0, ...{boxes}.map(e => e.getBoundingClientRect().right))")
        assert right <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_text_has_enough_contrast(page_file: Path, open_page: Open, scheme: str, width: int) -> None:
    with open_page(page_file, color_scheme=scheme, width=width) as opened:
        choose(opened.page, "in-any")
        opened.value("document.querySelectorAll('details').forEach(e => e.open = true)")
        checked, faint = opened.value(TOO_FAINT)
        assert checked > 300
        assert faint == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_the_leaderboard_is_as_silent_narrow_and_legible(
    open_page: Open, tmp_path: Path, scheme: str, width: int
) -> None:
    write_leaderboard_page(HOSTILE[0], board_document(), Accept(), tmp_path)
    with open_page(tmp_path / "leaderboard.html", color_scheme=scheme, width=width) as opened:
        assert opened.requests == [(tmp_path / "leaderboard.html").as_uri()] and opened.complaints == []
        assert opened.value("document.documentElement.scrollWidth") <= width
        checked, faint = opened.value(TOO_FAINT)
        assert checked > 100 and faint == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_screenshot_shows_something_in_the_scheme_asked_for(
    page_file: Path, open_page: Open, chrome: "Browser", scheme: str
) -> None:
    with open_page(page_file, color_scheme=scheme) as opened:
        picture = base64.b64encode(opened.page.screenshot()).decode()
    plain = chrome.new_page()
    counts = plain.evaluate(LEVELS, f"data:image/png;base64,{picture}")
    plain.close()
    common = max(range(256), key=counts.__getitem__)
    assert (common > 200) == (scheme == "light")
    assert sum(counts) - counts[common] > 0.03 * sum(counts)
    assert sum(count > 0 for count in counts) > 20


def test_it_is_built_for_screen_readers_and_the_keyboard(page_file: Path, open_page: Open) -> None:
    with open_page(page_file) as opened:
        levels = opened.value(HEADINGS)
        assert levels.count(1) == 1 and levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels))
        for landmark in ("header", "nav", "main", "footer"):
            assert opened.page.locator(f"body > {landmark}").count() == 1
        tables = "[...document.querySelectorAll('table')]"
        assert opened.value(f"{tables}.filter(t => !t.caption || !t.caption.textContent.trim()).length") == 0
        assert opened.value("[...document.querySelectorAll('th')].filter(e => !e.scope).length") == 0
        assert opened.value("[...document.querySelectorAll('select')].filter(e => !e.labels.length).length") == 0
        regions = "[...document.querySelectorAll('.scroll')]"
        assert (
            opened.value(f"{regions}.filter(e => e.tabIndex !== 0 || e.getAttribute('role') !== 'region').length") == 0
        )
        opened.page.keyboard.press("Tab")
        assert opened.value("document.activeElement.textContent") == "Skip to the findings"
        assert opened.value("document.activeElement.getBoundingClientRect().left") >= 0
        for _ in range(12):
            opened.page.keyboard.press("Tab")
            outline = opened.value(
                "(s => s.outlineStyle + ' ' + s.outlineWidth)(getComputedStyle(document.activeElement))"
            )
            assert outline == "solid 2px"


def test_every_figure_of_the_main_table_leads_to_its_samples_in_one_click(page_file: Path, open_page: Open) -> None:
    with open_page(page_file) as opened:
        cells = "[...document.querySelectorAll('table.metrics:not(.further) tbody td.n')]"
        bare = opened.value(f"{cells}.filter(e => /[0-9]/.test(e.textContent) && !e.querySelector('a')).length")
        links = opened.value("[...document.querySelectorAll('a.to')].map(e => e.getAttribute('href'))")
        assert bare == 0 and len(links) > 20
        opened.value("document.querySelectorAll('details').forEach(e => e.open = true)")
        for link in dict.fromkeys(links):
            opened.page.locator(f"a.to[href='{link}']").first.click()
            view = opened.page.locator(".view:target")
            assert view.is_visible() and f"#{view.get_attribute('id')}" == link
            assert opened.value("document.activeElement.id") == link[1:]
            subject = next(each for each in view.get_attribute("class").split() if each.startswith("by-"))
            answers = opened.value(
                "[...document.querySelectorAll('.a')].filter(e => e.checkVisibility()).map(e => e.className)"
            )
            assert any(subject in answer.split() for answer in answers), link
            beside = {
                re.sub("^(with|near)-", "by-", each)
                for each in view.get_attribute("class").split() if each.startswith(("with-", "near-"))
            }  # fmt: skip
            assert all(set(answer.split()) & {subject, *beside} for answer in answers)


def test_a_view_shows_the_samples_that_its_figure_counts(hostile_page: Path, open_page: Open) -> None:
    with open_page(hostile_page, "#v-refusal-transplant") as opened:
        told = opened.page.locator(".view:target").inner_text()
        assert "4 prompts behind refusal of the transplant, 4 refused" in told
        assert "As wanted: 4, not as wanted: 0." in told
        assert opened.value(f"{SHOWN}.length") == 4
        choose(opened.page, "bad")
        assert opened.value(f"{SHOWN}.length") == 0
        choose(opened.page, "open")
        assert opened.value(f"{SHOWN}.length") == 1
        opened.page.get_by_role("button", name="Reset filters").click()
        assert opened.value(f"{SHOWN}.length") == 4
        assert counted(opened.page) == "4 prompts, 4 answers shown"
        opened.page.get_by_role("link", name="Show 1 more that could not be judged").click()
        assert opened.value(f"{SHOWN}.length") == 1
        opened.page.get_by_role("link", name="Choose others").click()
        assert opened.value(f"{SHOWN}.length") == 0
    with open_page(hostile_page, "#v-refusal-transplant-vs-target") as opened:
        told = opened.page.locator(".view:target").inner_text()
        assert "4 of 4 prompts on which refusal differs between the transplant and the target" in told
        assert opened.value(f"{SHOWN}.length") == 4
    with open_page(hostile_page, "#v-refusal-donor-from-1") as opened:
        assert opened.value(f"{SHOWN}.length") == 2


@pytest.mark.parametrize("scripts", [True, False])
def test_filters_narrow_the_list_with_and_without_scripts(hostile_page: Path, open_page: Open, scripts: bool) -> None:
    with open_page(hostile_page, java_script_enabled=scripts) as opened:
        entries = opened.page.locator(".p:visible")
        assert entries.count() == 0
        for value, left in (
            ("in-any", 15), ("in-function", 5), ("by-transplant", 5), ("good", 4), ("open", 1), ("bad", 0),
        ):  # fmt: skip
            choose(opened.page, value)
            assert entries.count() == left, value
        choose(opened.page, "from-1")
        choose(opened.page, "open")
        assert entries.count() == 1
        assert {each.get_attribute("class").split()[1] for each in opened.page.locator(".a:visible").all()} == {
            "by-transplant"
        }
        opened.page.get_by_role("button", name="Reset filters").click()
        choose(opened.page, "new")
        assert entries.count() == 15
        choose(opened.page, "by-target")
        assert entries.count() == 0


def test_hostile_strings_are_shown_as_they_are(hostile_page: Path, open_page: Open) -> None:
    with open_page(hostile_page) as opened:
        choose(opened.page, "in-any")
        assert (
            opened.value("document.scripts.length + document.images.length + document.querySelectorAll('link').length")
            == 0
        )
        text = opened.page.locator(".entries").inner_text()
        for each in (HOSTILE[0], HOSTILE[1], HOSTILE[5], HOSTILE[6], HOSTILE[8], "line two"):
            assert each in text
        assert "‹U+202E›gnp.elif‹U+202C›" in text and "‹U+0000›‹U+0007›null &amp; &#60;b&#62;" in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00]", text)
        outside = "[...document.querySelectorAll('a')].filter(e => !e.getAttribute('href').startsWith('#'))"
        assert opened.value(f"{outside}.length") == 0


def test_the_lineage_leads_from_each_box_to_a_place_and_says_the_same_in_words(
    page_file: Path, open_page: Open
) -> None:
    with open_page(page_file) as opened:
        boxes = opened.page.locator("svg.graph a")
        rows = opened.page.locator("table.steps tbody tr")
        assert boxes.count() == rows.count() > 5
        for box in boxes.all():
            assert opened.page.locator(box.get_attribute("href")).count() == 1
            assert "digest" in box.get_attribute("aria-label")
        inside = opened.value("""(() => {
          const g = document.querySelector('svg.graph').getBoundingClientRect();
          return [...document.querySelectorAll('svg.graph a')].every(a => {
            const box = a.querySelector('rect').getBoundingClientRect();
            return box.left >= g.left - 1 && box.right <= g.right + 1 && box.bottom <= g.bottom + 1
              && [...a.querySelectorAll('text')].every(t => t.getBoundingClientRect().right <= box.right);
          }); })()""")
        assert inside
        box = boxes.first
        box.focus()
        opened.page.keyboard.press("Enter")
        assert opened.page.url.endswith(box.get_attribute("href"))


def test_it_prints_to_pages_that_cut_no_table_off(page_file: Path, open_page: Open, tmp_path: Path) -> None:
    with open_page(page_file) as opened:
        opened.page.emulate_media(media="print")
        pdf = opened.page.pdf(path=tmp_path / "report.pdf", format="A4", prefer_css_page_size=True)
        assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 1
        # A4 less the margins of the page's own @page rule, in CSS pixels.
        opened.page.set_viewport_size({"width": round((210 - 28) * 96 / 25.4), "height": 1000})
        wide = opened.value(
            "[...document.querySelectorAll('table, svg, pre, p')].filter(e => e.checkVisibility()"
            " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
        )
        assert wide == []
        assert opened.page.locator(".entries").is_hidden() and opened.page.locator(".filters").is_hidden()
        assert opened.page.get_by_text("The list is left out in print").is_visible()
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "-layout", tmp_path / "report.pdf", "-"], capture_output=True, text=True, check=True
        )
        assert "Whole donor (reference)" in text.stdout and "sha256sum FILE" in text.stdout


def counted(page: "Page") -> str:
    """The counts below the list, with what the style rules put before them."""
    for part in (".shown-prompts", ".shown-answers"):
        assert "counter" in page.evaluate(f"getComputedStyle(document.querySelector('{part}'), '::before').content")
    told = [page.locator(part).inner_text() for part in (".shown-prompts", ".shown-answers")]
    numbers = [page.locator(part).count() for part in (".p:visible", ".a:visible")]
    return " ".join(f"{number} {text}" for number, text in zip(numbers, told, strict=True))
