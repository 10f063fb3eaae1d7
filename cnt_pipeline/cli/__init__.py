"""The `cnt` command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

from cnt_pipeline.cli import studies  # noqa: I001  commands are listed in the order in which they register
from cnt_pipeline.cli import evidence, reference
from cnt_pipeline.cli.app import app

__all__ = ["app", "evidence", "main", "reference", "studies"]


def main() -> None:
    """Entry point of `cnt`."""
    app()
