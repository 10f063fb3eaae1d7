"""Where a project keeps its store, its studies and Dagster's history: flags and environment first, then the folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.errors import StudyError

MARKS = ("workspace.yaml", "dagster.yaml", ".cnt")
STUDY_SUFFIXES = (".yaml", ".yml")


def project_folder(start: Path | None = None) -> Path:
    """The nearest folder at or above `start` (the current folder) that holds one of `MARKS`, else `start` itself."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if any((folder / mark).exists() for mark in MARKS):
            return folder
    return start


def store_url(option: str | None = None, environment: Mapping[str, str] = os.environ) -> str:
    """Folder or URL of the store: the option, else `CNT_STORE`, else `.cnt` in the project folder."""
    return option or environment.get("CNT_STORE") or str(project_folder() / ".cnt")


def dagster_home(environment: Mapping[str, str] = os.environ) -> Path:
    """Folder of Dagster's run history: `DAGSTER_HOME`, else `.dagster` in the project folder. It may not exist yet."""
    given = environment.get("DAGSTER_HOME")
    return Path(given).expanduser().absolute() if given else project_folder() / ".dagster"


def study_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """Study files of the project: those that `CNT_STUDIES` names (files or folders), else those in `studies/`.

    Raises:
        StudyError: `CNT_STUDIES` names something that does not exist.
    """
    given = environment.get("CNT_STUDIES")
    places = [Path(place).expanduser() for place in given.split(os.pathsep) if place] if given else []
    found: list[Path] = []
    for place in places or [project_folder() / "studies"]:
        if place.is_dir():
            found += sorted(path for path in place.iterdir() if path.suffix in STUDY_SUFFIXES)
        elif place.exists() or not given:
            found += [place] if place.exists() else []
        else:
            raise StudyError(f"CNT_STUDIES names {place}, which does not exist: correct or unset it")
    return [path.resolve() for path in dict.fromkeys(found)]
