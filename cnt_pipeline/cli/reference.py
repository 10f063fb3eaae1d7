"""Commands about what there is to choose from, the store and the web interface."""

from pathlib import Path
from typing import Annotated

import typer

from cnt_pipeline.cli.app import StoreOption, app


@app.command()
def suites(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One suite: its sources, columns, metrics, licences.")
    ] = None,
) -> None:
    """List the evaluation suites that a study can name, or describe one."""
    from cnt_pipeline.commands.suites import print_suite, print_suites

    if name is None:
        print_suites()
    else:
        print_suite(name)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method: what it does, reads and may be told.")
    ] = None,
) -> None:
    """List the methods that a study can name, or describe one."""
    from cnt_pipeline.commands.reference import print_method, print_methods

    if name is None:
        print_methods()
    else:
        print_method(name)


@app.command()
def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="run, plan, status, donors, leaderboard, judge-check, verify, replay or study."
        ),
    ],
) -> None:
    """Print the JSON Schema of a document."""
    from cnt_pipeline.commands.reference import print_schema

    print_schema(name)


@app.command()
def gc(
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="[STUDY]...", help="Keep what these studies plan too.")
    ] = None,
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
) -> None:
    """Remove from the store what no study reaches."""
    from cnt_pipeline.commands.gc import collect

    collect(studies or [], store, dry_run)


@app.command()
def ui(
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="[STUDY]...", help="Default: the project's studies/.")
    ] = None,
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Browse and run the studies in Dagster's web interface."""
    from cnt_pipeline.commands.ui import serve

    raise typer.Exit(serve(studies or [], store, host, port))
