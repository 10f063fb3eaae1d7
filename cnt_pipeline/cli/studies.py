"""Commands that take a study: write it, check it, run it, ask what came of it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnt_pipeline.cli.app import JsonOption, StoreOption, StudyFile, app


class Question(StrEnum):
    """What people said of an answer."""

    refused = "refused"
    harmful = "harmful"


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write, or the folder to write study.yaml into.")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a commented study to edit; as it is, it runs on the packaged pair of models."""
    from cnt_pipeline.commands.init import write_study

    write_study(path)


@app.command()
def check(study: StudyFile) -> None:
    """Check everything that can be known before computing: models, prompts, method, needs."""
    from cnt_pipeline.commands.check import check_study

    check_study(study)


@app.command()
def plan(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would build, and why."""
    from cnt_pipeline.commands.plan import show_plan

    show_plan(study, store, as_json)


@app.command()
def run(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Run a study: build what is not stored yet, then say what was found."""
    from cnt_pipeline.commands.run import run_study

    raise typer.Exit(run_study(study, store, as_json))


@app.command()
def status(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say of every step whether it is cached, to build or broken, and why."""
    from cnt_pipeline.commands.plan import show_status

    show_status(study, store, as_json)


@app.command()
def query(
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="One SELECT; without it the views are listed.")
    ] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="All rows as a JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All rows as CSV.")] = False,
) -> None:
    """Ask the store with SQL: a view per kind of artifact, over all studies."""
    from cnt_pipeline.commands.query import run_query

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    run_query(sql, store, "json" if as_json else "csv" if as_csv else "table")


@app.command()
def report(
    study: StudyFile,
    store: StoreOption = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Print the path of a study's HTML report."""
    from cnt_pipeline.commands.report import show_report

    show_report(study, store, open_it)


@app.command()
def donors(
    study: StudyFile,
    store: StoreOption = None,
    as_json: JsonOption = False,
    budget: Annotated[
        float, typer.Option(min=0.00001, max=1, help="Share of all parameters that each donor may give.")
    ] = 0.0024,
) -> None:
    """Compare candidate donors: how far the best neurons of each bring the target at one budget."""
    from cnt_pipeline.commands.donors import compare_donors

    raise typer.Exit(compare_donors(study, store, as_json, budget))


@app.command()
def compare(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Compare the methods that a study names on the same test prompts: the leaderboard."""
    from cnt_pipeline.commands.compare import compare_methods

    raise typer.Exit(compare_methods(study, store, as_json))


@app.command(name="judge-check")
def judge_check(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="Study with `judges:`. Default: the phrase families.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="NAME", help="This judge of the study alone.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE.csv", help="Labelled answers. Default: those in the package pyrit."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="prompt=...,answer=...,label=...", help="How the file's columns are called."),
    ] = None,
    question: Annotated[Question, typer.Option(help="What the labels say of an answer.")] = Question.refused,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a judge agrees with people: accuracy, precision, recall, Cohen's kappa, confusions."""
    from cnt_pipeline.commands.judge_check import check_judges

    raise typer.Exit(check_judges(study, judge, labels, columns, question.value, as_json))
