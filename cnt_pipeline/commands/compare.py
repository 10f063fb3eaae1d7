"""`cnt compare`: every method that a study names, on the same test prompts, in one table."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.commands.console import err, out, print_document, table
from cnt_pipeline.commands.progress import RunDisplay
from cnt_pipeline.errors import StudyError
from cnt_pipeline.evaluations.leaderboard import FILE
from cnt_pipeline.evaluations.schema import DIMENSIONS as DIMENSIONS_FILE
from cnt_pipeline.pipeline.chain import Chain
from cnt_pipeline.pipeline.compare_steps import LEADERBOARD, LEADERBOARD_PAGE
from cnt_pipeline.pipeline.dimension_steps import DIMENSIONS
from cnt_pipeline.pipeline.documents import LeaderboardDocument, LeaderboardRow
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.reports.board import board
from cnt_pipeline.reports.dimensions import progress, progress_note
from cnt_pipeline.reports.leaderboard import PAGE, causes, conclusion
from cnt_pipeline.reports.standing import TASK, ranked, standing
from cnt_pipeline.reports.words import SPACE
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Accept, Study


def compare_methods(path: Path, store: str | None, as_json: bool) -> int:
    """Take what the leaderboard of the study in `path` needs, each step built on the store, and print it; 0.

    Raises:
        StudyError: the study names no methods to compare.
        CntError: a step's inputs are at fault.
    """
    study, opened = load_study(path), Store(store_url(store))
    if not study.compare.methods:
        raise StudyError(
            f"{study.file}:compare: the study names no methods to compare; write `compare: {{methods: [nlsr, ties]}}`, "
            "for example, with names from `cnt methods`"
        )
    found, page = _take(study, opened)
    if as_json:
        print_document(_document(study, found, page))
    else:
        _print(found, study.accept, page)
    return 0


def _take(study: Study, store: Store) -> tuple[dict[str, Any], str]:
    """The leaderboard's document, with that of the safety dimensions where there are some, and the path of its page."""
    refuse_impossible(study)
    steps = needed_for([LEADERBOARD_PAGE], steps_of(study))
    with RunDisplay(err(), steps) as display:
        chain = Chain(study, store, display, steps)
        for step in steps:
            chain.take(step.key)
    found: dict[str, Any] = json.loads(chain.artifact(LEADERBOARD).path(FILE).read_text(encoding="utf-8"))
    if any(step.key == DIMENSIONS for step in steps):
        text = chain.artifact(DIMENSIONS).path(DIMENSIONS_FILE).read_text(encoding="utf-8")
        found["dimensions"] = json.loads(text)
    return found, str(chain.artifact(LEADERBOARD_PAGE).path(PAGE))


def _document(study: Study, found: Mapping[str, Any], page: str) -> LeaderboardDocument:
    rows = []
    for row in ranked(found["rows"]):
        stands = standing(found, row, study.accept)
        kept = {
            "keeps_lookalikes": stands.keeps(found["misfire"]),
            "keeps_utility": stands.keeps("utility"),
            "keeps_task": stands.keeps(TASK),
        }
        rows.append(LeaderboardRow.model_validate({**row, **kept}))
    return LeaderboardDocument.model_validate({**found, "study": study.study, "rows": rows, "page": page})


LEFT_TO_THE_PAGE = ("coherence", "causal effect", "modules touched", "peak memory")
"""Columns for which a terminal has no room; causal effects are told in sentences."""


def _print(found: Mapping[str, Any], accept: Accept, page: str) -> None:
    """The page's table as far as a terminal has room, without intervals: those are in the JSON document too."""
    made = board(found, accept)
    shown = [column for column in made.columns if column.name not in LEFT_TO_THE_PAGE]
    columns = ("", *(column.name for column in shown), "grade", "Pareto front")
    rows = []
    for at, heading in enumerate(made.rows):
        cells = [column.cells[at].text.replace(SPACE, " ") for column in shown]
        rows.append((heading.name, *cells, heading.grade, "yes" if heading.pareto else ""))
    console = out()
    console.print()
    figures = [column.name for column in shown if column.figures]
    console.print(table(columns, rows, title="On the test prompts", right=figures))
    console.print(f"\n{conclusion(found, accept).replace(SPACE, ' ')}", markup=False, soft_wrap=True)
    for sentence in causes(found):
        console.print(sentence.replace(SPACE, " "), markup=False, soft_wrap=True)
    console.print("wall time leaves out probes shared with other methods", markup=False, soft_wrap=True)
    _print_dimensions(found.get("dimensions"))
    console.print(f"leaderboard {page}", markup=False, soft_wrap=True)


def _print_dimensions(document: Mapping[str, Any] | None) -> None:
    """The page's tables of safety dimensions, without intervals."""
    console = out()
    for each in progress(document):
        rows = [(name, *(cell.text.replace(SPACE, " ") for cell in cells)) for name, cells in each.rows]
        console.print()
        console.print(table(("", *each.columns), rows, title=f"{each.entry} by dimension", right=each.columns))
    if document is not None:
        console.print(f"\n{progress_note(document)}", markup=False, soft_wrap=True)
