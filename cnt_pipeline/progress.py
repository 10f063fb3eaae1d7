"""How long work tells whoever watches where it stands; the watcher draws it."""

from collections.abc import Callable

Report = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done and how much there is in all."""


def silent(what: str, done: int, total: int) -> None:
    """Nobody watches."""
