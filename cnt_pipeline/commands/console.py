"""Where commands write: documents and tables to standard output, progress and remarks to standard error."""

import sys
from collections.abc import Iterable, Sequence

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

STYLES = {
    "hit": "green",
    "cached": "green",
    "built": "cyan",
    "build": "yellow",
    "to build": "yellow",
    "broken": "bold red",
    "pass": "bold green",
    "fail": "bold red",
}


def out() -> Console:
    """Standard output, wide enough for whole paths when it is no terminal."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, width=None if stream.isatty() else 160, highlight=False)


def print_document(document: BaseModel) -> None:
    """The one thing that a command with `--json` writes to standard output."""
    sys.stdout.write(document.model_dump_json(indent=2) + "\n")


def table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None, right: Sequence[str] = ()
) -> Table:
    """A plain table; cells that are a known state are coloured, and cells are never read as markup."""
    from rich.text import Text

    made = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return made
