"""The application that commands register with, how it shows faults, and options that several commands take."""

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
    epilog="Exit codes: 0 done, 1 a quality gate or a proof failed, 2 the input is at fault, 130 interrupted.",
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML).")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Folder or URL of the artifact store. Default: $CNT_STORE, else .cnt in the project.",
    ),
]
KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="KEYFILE", help="Ed25519 key that signs the statement (cnt keygen).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
