"""`cnt report`: where the page that a study left behind lies."""

import webbrowser
from pathlib import Path

from cnt_pipeline.commands.console import err, out
from cnt_pipeline.errors import InputError
from cnt_pipeline.pipeline.outcome import REPORT, report_of
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.load import load_study


def show_report(path: Path, store: str | None, open_it: bool) -> None:
    """Print the path of the study's report.

    Raises:
        InputError: the report is not built, or not of the study as it is now.
    """
    study, opened = load_study(path), Store(store_url(store))
    planned = {each.step.key: each for each in plan(study, opened)}
    artifact = planned[REPORT].artifact
    if artifact is None:
        missing = sum(each.state != "cached" for each in planned.values())
        raise InputError(
            f"the report of {study.study} is not built for the study as it is now ({missing} of {len(planned)} "
            f"steps are to build): run `cnt run {path}`{_older(opened, study.study)}"
        )
    page = report_of({REPORT: artifact})
    out().print(page, markup=False, soft_wrap=True)
    if open_it and not webbrowser.open(Path(page).as_uri()):
        err().print("no browser could be started; open the path above in one")


def _older(store: Store, study: str) -> str:
    """Where the report of an earlier state of the study is."""
    head = store.head(study, REPORT)
    older: Artifact | None = store.get(head.stage, head.fingerprint) if head else None
    return f" (the report of its earlier state is {report_of({REPORT: older})})" if older else ""
