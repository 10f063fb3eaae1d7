"""The templates of this folder: HTML escaped, blanks as written, a name that is not given is an error."""

import json
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cnt_pipeline.reports import words

_MARKDOWN = str.maketrans({c: f"\\{c}" for c in "\\`*_{}[]<>|#~"} | {"\n": " ", "\r": " "})


def environment() -> Environment:
    """Loads pages (`.html.j2`, escaped) and cards (`.md.j2`, which escape by the filter `markdown`)."""
    made = Environment(
        loader=PackageLoader("cnt_pipeline.reports", "."),
        autoescape=lambda name: name is not None and name.endswith(".html.j2"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["markdown"] = lambda text: str(text).translate(_MARKDOWN)
    made.filters["visible"] = words.visible
    made.filters["sentence"] = words.sentence
    made.filters["quoted"] = lambda text: json.dumps(str(text), ensure_ascii=False)
    return made


def contents(page: Markup) -> list[tuple[str, Markup]]:
    """Id and title of every section of a rendered page, in its order."""
    found = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', page, re.DOTALL)
    return [(name, Markup(title)) for name, title in found]
