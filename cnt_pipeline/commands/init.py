"""`cnt init`: write a commented study to edit."""

import re
from importlib.resources import files
from pathlib import Path

from cnt_pipeline.commands.console import out
from cnt_pipeline.errors import StudyError

TEMPLATE = "study.yaml"


def write_study(path: Path) -> None:
    """Write a study that runs as it is.

    Raises:
        StudyError: the file is there already, or cannot be written.
    """
    if path.is_dir() or not path.suffix:
        path = path / TEMPLATE
    name = re.sub(r"[^a-z0-9_-]+", "-", path.stem.lower()).strip("-_")[:64] or "study"
    text = files("cnt_pipeline.commands").joinpath(TEMPLATE).read_text(encoding="utf-8")
    try:
        if not path.parent.exists():
            path.parent.mkdir(parents=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text.replace("@STUDY@", name).replace("@FILE@", str(path)))
    except FileExistsError:
        raise StudyError(f"{path} exists already and is left as it is: name another file") from None
    except OSError as error:
        raise StudyError(f"{path} cannot be written ({error.strerror}): name a place that you may write to") from None
    out().print(
        f"{path} is written: edit it, then `cnt check {path}` and `cnt run {path}`", markup=False, soft_wrap=True
    )
