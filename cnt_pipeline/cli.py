"""The `cnt` command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cnt_pipeline.errors import CntError

INTERRUPTED = 130


class Guarded(TyperGroup):
    """Shows a fault that the user can fix as its one sentence, with its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CntError as error:
            _say(f"cnt: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("cnt: interrupted; finished steps are kept in the store, and the next `cnt run` goes on from there")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Guarded,
    help="Find the neurons that carry a safety function in a donor model, transplant them, and prove what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a quality gate failed, 2 the input is at fault, 130 interrupted.",
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML).")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URL", help="Folder or URL of the artifact store. Default: $CNT_STORE, else .cnt in the project."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


@app.command()
def plan(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would build, and why."""
    from cnt_pipeline.commands.plan import show_plan

    show_plan(study, store, as_json)


@app.command()
def run(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Run a study: build what is not in the store yet, then print and report what was found."""
    from cnt_pipeline.commands.run import run_study

    raise typer.Exit(run_study(study, store, as_json))


@app.command()
def status(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what the store holds of a study: every step cached, to build or broken, and why."""
    from cnt_pipeline.commands.plan import show_status

    show_status(study, store, as_json)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of `cnt`."""
    app()
