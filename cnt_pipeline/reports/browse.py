"""Views of samples, one for each figure that they stand behind, and all that a page can show of them.

The page runs no script. A view is an element that a figure links to; while it is the target of the address, style
rules leave only its samples. The rules know classes alone: beside those of `listing`, on a view and on a list
`in-function` is the list, on a view `m0` the first column of its lists.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cnt_pipeline.reports.columns import Compared, Measured
from cnt_pipeline.reports.listing import Shelf


@dataclass(frozen=True)
class View:
    """What a figure links to: `heading` says what is listed and which figure it stands behind.

    It shows the lists `lists`, of `subject` and those `beside` it (of all without one), where `only` that letter of the
    column `number`; of one source, or of those that pooled figures read. Those `near` are shown where the subject is
    and select no prompt. `links` lead to other views of the figure.
    """

    id: str
    heading: str
    text: str
    lists: tuple[str, ...]
    number: int
    subject: str = ""
    beside: tuple[str, ...] = ()
    only: str = ""
    source: int | None = None
    right: bool = False
    links: tuple[tuple[str, str], ...] = ()
    parent: str = ""
    near: tuple[str, ...] = ()

    @property
    def classes(self) -> str:
        """As the style rules know it."""
        who = [f"by-{self.subject}", *(f"with-{each}" for each in self.beside)] if self.subject else ["pair"]
        who += [f"near-{each}" for each in self.near]
        where = [*(f"in-{each}" for each in self.lists), "pooled" if self.source is None else f"from-{self.source}"]
        only = [f"only-{self.only}"] if self.only else []
        return " ".join([*where, f"m{self.number}", *who, *only, *([] if self.right else ["figures"])])


@dataclass(frozen=True)
class Browser:
    """The lists, their views by id (of several ids for one view, one is its own), and what can be filtered by."""

    shelves: tuple[Shelf, ...]
    views: Mapping[str, View]
    subjects: Mapping[str, str]
    sources: tuple[str, ...]
    wanted: str = ""
    """What the filter by outcome looks at, in a sentence."""

    @property
    def choices(self) -> bool:
        """Whether choices are listed with what they are compared by."""
        return any(each.choices for shelf in self.shelves for entry in shelf.entries for each in entry.answers)

    @property
    def mixed(self) -> bool:
        """Whether the test prompts of a list come from several sources."""
        return any(len({prompt.source for prompt in shelf.prompts}) > 1 for shelf in self.shelves if shelf.tested)

    @property
    def alike(self) -> tuple[str, ...]:
        """Subjects that no filter names, whose equal answers are listed once."""
        return tuple(dict.fromkeys(key for shelf in self.shelves for key in shelf.alike if key not in self.subjects))

    @property
    def compared(self) -> tuple[int, ...]:
        """Columns in which two judges are compared."""
        found = (each.number for shelf in self.shelves for each in shelf.columns if isinstance(each, Compared))
        return tuple(dict.fromkeys(found))

    @property
    def judged_right(self) -> tuple[tuple[str, int], ...]:
        """Subject and column of every view whose samples are right or wrong."""
        return tuple(dict.fromkeys((view.subject, view.number) for view in self.views.values() if view.right))

    @property
    def narrowed(self) -> tuple[tuple[str, int, str], ...]:
        """Subject, column and letter of every view of one subject that shows that letter alone."""
        found = ((view.subject, view.number, view.only) for view in self.views.values() if view.only and view.subject)
        return tuple(dict.fromkeys(found))

    @property
    def open(self) -> tuple[tuple[str, int], ...]:
        """Subject and column of what could not be judged somewhere."""
        columns = (each for shelf in self.shelves for each in shelf.columns if isinstance(each, Measured))
        found = ((key[0], each.number) for each in columns for key, value in each.values.items() if value is None)
        return tuple(dict.fromkeys(found))

    @property
    def unasked(self) -> tuple[int, ...]:
        """Columns that do not ask every prompt of their list."""
        classes = (name for shelf in self.shelves for entry in shelf.entries for name in entry.classes.split())
        return tuple(sorted({int(name[1:]) for name in classes if name[0] == "x" and name[1:].isdigit()}))

    @property
    def held_back(self) -> tuple[tuple[str, int, int], ...]:
        """Title, prompts listed and prompts there are, of lists that are not whole."""
        counts = ((shelf.title, len(shelf.entries), len(shelf.prompts)) for shelf in self.shelves)
        return tuple(count for count in counts if count[1] < count[2])
