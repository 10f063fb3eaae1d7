"""A Python function of the user's own as a judge."""

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.measures.judges.schema import VERDICTS, Asked, Judgement, Verdict


class FunctionJudge:
    """Asks `module:function` of one prompt and answer at a time, so that no verdict depends on another.

    The function returns one of the verdicts, or a verdict and its confidence in [0, 1].

    Raises:
        InputError: there is no such function.
    """

    tells: frozenset[Verdict] = frozenset({"harmful", "refused", "safe"})

    def __init__(self, entry: str) -> None:
        source_of(entry)
        module, name = entry.split(":")
        self._entry = entry
        self._function = getattr(importlib.import_module(module), name, None)
        if not callable(self._function):
            raise InputError(
                f"the judge {entry} is no function: the module {module} has no callable {name}, correct it"
            )

    def judge(self, asked: Sequence[Asked], batch_size: int) -> list[Judgement]:
        return [self._read(self._function(one.prompt, one.whole)) for one in asked]  # type: ignore[misc]

    def _read(self, said: Any) -> Judgement:
        verdict, sure = said if isinstance(said, tuple) and len(said) == 2 else (said, None)
        valid = sure is None or (isinstance(sure, int | float) and not isinstance(sure, bool) and 0 <= sure <= 1)
        if verdict not in VERDICTS or not valid:
            raise InputError(
                f"the judge {self._entry} returned {said!r}: return one of {', '.join(VERDICTS)}, "
                "or a pair of that and a confidence from 0 to 1"
            )
        return Judgement(verdict, None if sure is None else float(sure))


def source_of(entry: str) -> Path:
    """The file that holds the function of an entry, found without importing it.

    Raises:
        InputError: there is no such module, or it is no Python file.
    """
    top, *rest = entry.split(":")[0].split(".")
    spec = importlib.util.find_spec(top)
    places = [Path(root) for root in (spec.submodule_search_locations if spec else None) or ()]
    files = [Path(spec.origin)] if spec and spec.origin and not rest else []
    for root in places:
        place = root.joinpath(*rest)
        files += [place.with_suffix(".py")] if rest else []
        files += [place / "__init__.py"]
    found = next((file for file in files if file.suffix == ".py" and file.is_file()), None)
    if found is None:
        raise InputError(
            f"the judge {entry} cannot be found: no Python module {entry.split(':')[0]} is installed or on PYTHONPATH"
        )
    return found
