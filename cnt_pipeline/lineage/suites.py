"""Suite files of a study's own: a bundle carries them as they were read, so that the study can be read without them."""

from pathlib import Path

import yaml

from cnt_pipeline.evaluations.suite_table import read_suite
from cnt_pipeline.lineage import layout
from cnt_pipeline.study.schema import Study


def suite_texts(study: Study) -> dict[str, str]:
    """By name in the bundle, every suite file that the study names, with the places in it made absolute.

    Raises:
        StudyError: one is gone or no suite.
    """
    return {
        layout.suite_name(choice.label): yaml.safe_dump(
            read_suite(Path(choice.file)).model_dump(mode="json", by_alias=True, exclude_unset=True),
            sort_keys=False,
            allow_unicode=True,
        )
        for choice in study.suites
        if choice.file is not None
    }


def suite_names(study: Study) -> set[str]:
    """Names in the bundle of the suite files that the study names."""
    return {layout.suite_name(choice.label) for choice in study.suites if choice.file is not None}


def reading_bundled(study: Study, folder: Path) -> Study:
    """The study with its own suites read from the bundle in `folder`."""
    suites = tuple(
        choice.model_copy(update={"file": str(folder / layout.suite_name(choice.label))}) if choice.file else choice
        for choice in study.suites
    )
    return study.model_copy(update={"suites": suites})
