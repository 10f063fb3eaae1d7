"""Write the README's results from the store: ``python -m benchmarks.results_table [--store URL] [--check] STUDY...``.

Every figure between the two marks of README.md comes from the artifacts of finished studies; nothing is typed by hand.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.errors import CntError, StoreError
from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.pipeline.compare_steps import LEADERBOARD
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.reports import words
from cnt_pipeline.reports.board import board
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
SUBJECTS = {
    "target": "target",
    "transplant": "**transplant**",
    "donor": "donor",
    "control_random": "random neurons",
    "control_largest_delta": "largest delta",
}

BOARD_COLUMNS = ("refusal", "over-refusal", "pronoun gap", "look-alike error", "utility", "task accuracy",
                 "parameters changed")  # fmt: skip
"""Columns of the leaderboard that a README has room for."""


def results(study: Study, store: Store) -> str:
    """One study as Markdown: the metrics of every subject, what was moved, and the function by source.

    Raises:
        StoreError: the study is not finished.
    """
    planned = {each.step.key: each for each in plan(study, store)}
    waiting = next((key for key, each in planned.items() if each.artifact is None), None)
    if waiting is not None:
        raise StoreError(f"{study.study}: {waiting} is not up to date; run `cnt run {study.file}` first")
    artifacts = {key: each.artifact for key, each in planned.items() if each.artifact is not None}
    metrics = pl.read_parquet(artifacts["evaluations/scores"].path("metrics.parquet"), glob=False)
    parts = [f"### `{study.study}`", _moved(study, artifacts), _table(study, metrics), _sources(study, metrics)]
    parts.append(_frontier(study, artifacts))
    if LEADERBOARD in artifacts:
        parts.append(_board(study, _json(artifacts[LEADERBOARD], "leaderboard.json")))
    return "\n\n".join(part for part in parts if part)


def _moved(study: Study, artifacts: Mapping[str, Artifact]) -> str:
    chosen = _json(artifacts["transplants/selection"], "selection.json")
    verdict = _json(artifacts["evaluations/verdict"], "verdict.json")
    needed = _json(artifacts["evaluations/frontier"], "frontier.json")
    amplitude = chosen["amplitude"]
    how = "plain copy" if amplitude["min"] == amplitude["max"] == 1 else f"median amplitude {amplitude['median']:.3g}"
    verb = "deleted" if study.function.direction == "delete" else "added"
    fewest = " Every control needs more parameters for the same recovery." if needed["fewer_than_controls"] else ""
    return (
        f"{words.sentence(study.function.name)} {verb} by `{chosen['selection']}`: {chosen['neurons']:,} neurons, "
        f"{words.share(chosen['share'])} of {chosen['total_parameters'] / 1e6:,.1f} M parameters, {how}. "
        f"Recovery on test prompts {words.percent(verdict['recovery'])}; verdict: {verdict['verdict']}.{fewest}"
    )


def _table(study: Study, metrics: pl.DataFrame) -> str:
    pooled = metrics.filter(pl.col("source") == "")
    main = study.function.measured_by
    wanted = [main, MISFIRES[main], "coherence", "utility", "multiple_choice", "perplexity"]
    names = [name for name in wanted if name in pooled["metric"]]
    return _rows(pooled, [(words.metric_name(name), name, "") for name in names])


def _sources(study: Study, metrics: pl.DataFrame) -> str:
    main = study.function.measured_by
    apart = metrics.filter((pl.col("source") != "") & pl.col("metric").is_in([main, MISFIRES[main]]))
    if apart.is_empty():
        return ""
    kept = apart.select("metric", "source").unique(maintain_order=True).iter_rows()
    rows = [(f"{words.metric_name(metric)}, {source}", metric, source) for metric, source in kept]
    return "By source of the test prompts:\n\n" + _rows(apart, rows)


CONTROLS = {"random": "random neurons", "largest_delta": "largest delta"}
NEAR = 1.02
"""Factor by which the share of a set of whole neurons may miss the budget that it was drawn for."""


def _frontier(study: Study, artifacts: Mapping[str, Artifact]) -> str:
    """Recovery by budget for plain copies, where the study draws effects beside its own."""
    if not study.frontier.effects:
        return ""
    drawn = pl.read_parquet(artifacts["evaluations/frontier"].path("frontier.parquet"), glob=False)
    drawn = drawn.filter((pl.col("eta") == 1) & pl.col("variant").is_null() & (pl.col("series") != "transplant"))
    budgets = sorted(study.frontier.budgets)
    lines = [f"| | {' | '.join(f'{words.share(budget)}' for budget in budgets)} |", "|---" * (len(budgets) + 1) + "|"]
    for (series, effect, weight), rows in drawn.group_by("series", "effect", "lookalike_weight", maintain_order=True):
        name = CONTROLS.get(str(series), f"`{effect}`, look-alike effect times {weight}")
        cells = []
        for budget in budgets:
            here = rows.filter((pl.col("share") <= budget * NEAR) & (pl.col("share") >= budget / NEAR))
            cells.append(words.NONE if here.is_empty() else words.percent(here["recovery"][-1]))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return (
        "Recovery on selection prompts by share of all parameters moved, plain copies "
        f"(“{words.NONE}”: not drawn, since the budgets beside it say enough):\n\n" + "\n".join(lines)
    )


def _board(study: Study, document: Mapping[str, Any]) -> str:
    """The leaderboard, as far as a README has room."""
    made = board(document, study.accept)
    shown = [column for column in made.columns if column.name in BOARD_COLUMNS]
    lines = [
        f"| method | grade | {' | '.join(column.name for column in shown)} |",
        "|---" * (len(shown) + 2) + "|",
    ]
    for at, heading in enumerate(made.rows):
        name = f"{heading.name} ({heading.about})" if heading.about else heading.name
        figures = [column.cells[at] for column in shown]
        cells = [f"{cell.text} ({cell.detail})" if cell.detail else cell.text for cell in figures]
        lines.append(f"| {' | '.join([name, heading.grade, *cells]).replace(words.SPACE, ' ')} |")
    return "Leaderboard on the same test prompts (`cnt compare`):\n\n" + "\n".join(lines)


def _rows(metrics: pl.DataFrame, rows: Sequence[tuple[str, str, str]]) -> str:
    lines = ["| | " + " | ".join(SUBJECTS.values()) + " |", "|---" * (len(SUBJECTS) + 1) + "|"]
    for label, metric, source in rows:
        cells = [_cell(metrics, metric, source, subject) for subject in SUBJECTS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(metrics: pl.DataFrame, metric: str, source: str, subject: str) -> str:
    here = (pl.col("metric") == metric) & (pl.col("source") == source) & (pl.col("subject") == subject)
    row = metrics.filter(here).row(0, named=True)
    bounds = words.interval(metric, row["low"], row["high"])
    text = words.amount(metric, row["value"])
    return f"{text} ({bounds})" if bounds and subject in ("target", "transplant", "donor") else text


def _json(artifact: Artifact, name: str) -> Any:
    return json.loads(artifact.path(name).read_text(encoding="utf-8"))


def with_results(readme: str, sections: Sequence[str]) -> str:
    """`readme` with what lies between its marks replaced."""
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return before + "\n\n".join([BEGIN, *sections, END]) + after


def main() -> int:
    """Write README.md, or with `--check` say whether it is as the store has it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="+", type=Path)
    parser.add_argument("--store")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where README.md differs")
    arguments = parser.parse_args()
    try:
        store = Store(store_url(arguments.store))
        sections = [results(load_study(path), store) for path in arguments.studies]
    except CntError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    old = README.read_text(encoding="utf-8")
    new = with_results(old, sections)
    if arguments.check:
        return int(old != new)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
