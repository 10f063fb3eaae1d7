"""Links between figures and the samples behind them, both ways."""

from collections.abc import Mapping

from markupsafe import Markup, escape

from cnt_pipeline.reports.browse import View


class Links:
    """Called with a view's id and a figure it makes the link; what has no number, or no samples, stays as it is.

    The first figure that leads to a view is where its link back leads, except for those in a sentence, which a table
    repeats.
    """

    def __init__(self, views: Mapping[str, View]) -> None:
        self._views = views
        self._figures: set[str] = set()

    def __call__(self, view: str, text: str | Markup, told: bool = False) -> Markup:
        if view not in self._views or not any(letter.isdigit() for letter in text):
            return escape(text)
        name = self._views[view].id
        anchor = Markup("") if told or name in self._figures else Markup(' id="{}"').format(_figure(name))
        if not told:
            self._figures.add(name)
        return Markup('<a class="to"{} href="#{}">{}</a>').format(anchor, name, text)

    def reached(self) -> list[tuple[View, str]]:
        """Views that a figure leads to, by itself or through another view, with the figure's id."""
        return [(view, self._back(view)) for name, view in self._views.items() if name == view.id and self._back(view)]

    def _back(self, view: View) -> str:
        if view.id in self._figures:
            return _figure(view.id)
        linked = view.parent or next((view_id for view_id, _ in view.links), "")
        return _figure(linked) if linked in self._figures else ""


def _figure(view: str) -> str:
    return f"f{view[1:]}"
