"""`cnt run`: take every step through Dagster in this process, then say what was found."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnt_pipeline.commands.console import STYLES, err, out, print_document, table
from cnt_pipeline.commands.plan import plan_document, print_plan
from cnt_pipeline.commands.progress import RunDisplay
from cnt_pipeline.pipeline import outcome
from cnt_pipeline.pipeline.document_parts import Interval, JudgePair, SuiteRow
from cnt_pipeline.pipeline.documents import MetricRow, RunDocument, TakenStep
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import dagster_home, store_url
from cnt_pipeline.pipeline.run import Taken
from cnt_pipeline.quantities import seconds_text
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study

QUALITY_FAILED = 1

COLUMNS = {
    "target": "target",
    "transplant": "transplant",
    "donor": "donor",
    "control:random": "random",
    "control:largest_delta": "largest delta",
}
"""Subjects of the before/after table in its order, and their headings."""
SUITE_COLUMNS = ("target", "transplant", "donor")
"""Subjects of the suites' table in its order."""


def run_study(path: Path, store: str | None, as_json: bool) -> int:
    """Run the study in `path`; the exit code: 0, or 1 where a quality gate failed.

    Raises:
        CntError: a step's inputs are at fault.
        KeyboardInterrupt: as it came; finished steps are in the store.
    """
    began = time.perf_counter()
    study, opened = load_study(path), Store(store_url(store))
    planned = plan(study, opened)
    if not as_json:
        print_plan(plan_document(study, opened, planned))
        out().print()
    with RunDisplay(err(), [each.step for each in planned]) as display:
        from assets.in_process import materialize_study

        materialize_study(study, opened.url, dagster_home(), display)
    order = [each.step.key for each in planned]
    taken = sorted(display.taken, key=lambda each: order.index(each.step.key))
    document, verdict = _document(study, taken, time.perf_counter() - began)
    if as_json:
        print_document(document)
    else:
        _print_outcome(document, verdict)
    return 0 if document.verdict == "pass" else QUALITY_FAILED


def _document(study: Study, taken: Sequence[Taken], seconds: float) -> tuple[RunDocument, dict[str, Any]]:
    ready = {each.step.key: each.built.artifact for each in taken}
    verdict = outcome.verdict_of(ready)
    document = RunDocument(
        study=study.study,
        purpose=study.purpose,
        verdict=verdict["verdict"],
        seconds=round(seconds, 3),
        steps=[
            TakenStep(
                key=each.step.key,
                stage=each.step.stage,
                state="hit" if each.built.hit else "built",
                fingerprint=each.fingerprint,
                digest=each.built.artifact.digest,
                seconds=round(each.built.seconds, 3),
                why=each.why,
            )
            for each in taken
        ],
        metrics=outcome.metrics_of(ready),
        checks=outcome.checks_of(verdict),
        suites=outcome.suites_of(study, ready),
        judges=outcome.judges_of(ready),
        transplant=outcome.transplant_of(ready),
        report=outcome.report_of(ready),
    )
    return document, verdict


def _print_outcome(document: RunDocument, verdict: dict[str, Any]) -> None:
    console = out()
    rows = {(row.subject, row.metric): row for row in document.metrics}
    metrics = dict.fromkeys(row.metric for row in document.metrics)
    cells = [[metric, *(_cell(rows.get((subject, metric))) for subject in COLUMNS)] for metric in metrics]
    console.print()
    console.print(table(("metric", *COLUMNS.values()), cells, title="On the test prompts (95 % interval)"))
    _print_suites(document.suites)
    _print_judges(document.judges)
    moved = document.transplant
    console.print(
        f"\n{moved.neurons:,} neurons, {moved.parameters:,} parameters ({moved.share:.2%} of the target), "
        f"{'an amplitude each' if moved.eta is None else f'eta {moved.eta:g}'}\n",
        markup=False,
        soft_wrap=True,
    )
    for check in document.checks:
        mark, style = ("yes", STYLES["pass"]) if check.passed else ("NO ", STYLES["fail"])
        console.print(f"[{style}]{mark}[/]  ", end="")
        console.print(check.sentence, markup=False, soft_wrap=True)
    built = sum(step.state == "built" for step in document.steps)
    hits = len(document.steps) - built
    console.print(f"\n[{STYLES[document.verdict]}]{document.verdict}[/]  ", end="")
    console.print(verdict["sentence"], markup=False, soft_wrap=True)
    for sentence in verdict["beside"]:
        console.print(sentence, markup=False, soft_wrap=True)
    console.print(f"{built} steps built, {hits} hits, {seconds_text(document.seconds)}")
    if document.purpose == "stress_test":
        console.print("stress test: the figures are the result; the checkpoint is not for use, and is not exported")
    else:
        console.print(f"checkpoint  {moved.path}", markup=False, soft_wrap=True)
    console.print(f"report      {document.report}", markup=False, soft_wrap=True)


def _print_suites(rows: Sequence[SuiteRow]) -> None:
    by_figure: dict[tuple[str, str, str], dict[str, SuiteRow]] = {}
    for row in rows:
        by_figure.setdefault((row.suite, row.part, row.metric), {})[row.subject] = row
    if by_figure:
        cells = [
            (*figure, *(_cell(found.get(subject)) for subject in SUITE_COLUMNS)) for figure, found in by_figure.items()
        ]
        out().print()
        out().print(table(("suite", "part", "metric", *SUITE_COLUMNS), cells, title="Suites (95 % interval)"))


def _print_judges(pairs: Sequence[JudgePair]) -> None:
    for pair in pairs:
        kappa = (
            "no kappa, since one says the same of everything" if pair.kappa is None else f"kappa {_cell(pair.kappa)}"
        )
        out().print(
            f"judges {pair.one} and {pair.other} agree on {_cell(pair.agreed)} of {pair.n} answers whether they are "
            f"{pair.question}, {kappa}",
            markup=False,
            soft_wrap=True,
        )


def _cell(row: MetricRow | SuiteRow | Interval | None) -> str:
    if row is None:
        return "-"
    if row.value is None:
        return "undefined"
    if row.low is None or row.high is None:
        return f"{row.value:.3f}"
    if max(abs(row.value), abs(row.low), abs(row.high)) > 1.5:
        return f"{row.value:.2f} ({row.low:.2f}-{row.high:.2f})"
    return f"{row.value:.3f} ({row.low:.3f}-{row.high:.3f})"
