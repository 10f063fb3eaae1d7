"""Materialize a study in this process, in the same history as the UI's runs."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import dagster as dg
from cnt_pipeline.errors import CntError, StoreError
from cnt_pipeline.pipeline.chain import Watcher
from cnt_pipeline.pipeline.project import project_folder
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.study.schema import Study
from dagster._core.instance.ref import InstanceRef
from sqlalchemy.exc import DatabaseError

from assets.binding import StudyAssets, identifier
from assets.resources import resources

SETTINGS = "dagster.yaml"
_STUDY, _HOST, _PID = "cnt/study", ".dagster/cnt_host", ".dagster/cnt_pid"  # `.dagster/`: not shown in the UI
# The terminal belongs to the progress display: Dagster would redirect standard output and error to files.
_NO_CAPTURE = {
    "compute_logs": {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
}
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


def materialize_study(study: Study, store: str, home: Path, watcher: Watcher) -> None:
    """Take every step of `study`, recording the run in the Dagster history at `home`.

    In the history a failed step holds the sentence of the error that is raised here.

    Raises:
        CntError: what a step found at fault, or `home` cannot be written.
        KeyboardInterrupt: as it came.
    """
    ending = _Ending(watcher)
    bound = StudyAssets(study, ending, pooled=False)
    name = identifier(study.study)
    job = dg.Definitions(
        bound.definitions,
        jobs=[dg.define_asset_job(name, selection=dg.AssetSelection.all())],
        resources=resources(store),
        executor=dg.in_process_executor,
    ).resolve_job_def(name)
    with _instance(home) as instance:
        _bury_killed_runs(instance)
        result = job.execute_in_process(
            instance=instance,
            run_config=_QUIET,
            raise_on_error=False,
            tags={_STUDY: study.study, _HOST: socket.gethostname(), _PID: str(os.getpid())},
        )
    if not result.success:
        _raise_what_ended(result, ending.error)


class _Ending:
    """A watcher that passes everything on and keeps the error that ends the run: Dagster keeps only its text.

    Dagster would go on with every branch that does not need the failed step; here nothing more is taken.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.error: BaseException | None = None
        self.progress, self.finished = watcher.progress, watcher.finished
        self._started, self._failed = watcher.started, watcher.failed

    def started(self, step: Step) -> None:
        if self.error is not None:
            raise CntError(f"{step.key} was not taken, since an earlier step failed")
        self._started(step)

    def failed(self, step: Step, error: BaseException) -> None:
        self.error = self.error or error
        self._failed(step, error)


def _raise_what_ended(result: dg.ExecuteInProcessResult, error: BaseException | None) -> NoReturn:
    """The step's own error; where Dagster itself was interrupted or failed between steps, that."""
    if isinstance(error, dg.DagsterExecutionInterruptedError):
        raise KeyboardInterrupt
    if error is not None:
        raise error
    events = [event for event in result.all_events if event.is_step_failure or event.is_failure]
    texts = [str(getattr(event.event_specific_data, "error", None) or event.message) for event in events]
    if any("Interrupt" in text for text in texts):
        raise KeyboardInterrupt
    raise RuntimeError("Dagster failed between steps:\n" + "\n".join(texts))


def prepare_home(home: Path) -> None:
    """Make the folder of Dagster's history, with the project's settings or our own.

    Raises:
        StoreError: it cannot be made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not (home / SETTINGS).exists():
            project = project_folder() / SETTINGS
            shutil.copyfile(project if project.is_file() else Path(__file__).with_name(SETTINGS), home / SETTINGS)
        if home.name == ".dagster" and not (home / ".gitignore").exists():
            (home / ".gitignore").write_text("*\n", encoding="utf-8")
    except OSError as error:
        raise StoreError(
            f"Dagster's history cannot be written to {home} ({error.strerror}): make it writable, or name another "
            "folder with DAGSTER_HOME"
        ) from None


@contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The history at `home`; whatever its database says is a StoreError."""
    prepare_home(home)
    try:
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(home), overrides=_NO_CAPTURE)) as instance:
            yield instance
    except DatabaseError as error:
        raise StoreError(
            f"Dagster's history in {home} cannot be used ({error.orig}): move that folder away, make room on its disk, "
            "or name another folder with DAGSTER_HOME"
        ) from error


def _bury_killed_runs(instance: dg.DagsterInstance) -> None:
    """A `cnt run` that was killed could not tell the history so: mark its run as failed."""
    running = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED], tags={_HOST: socket.gethostname()})
    for run in instance.get_runs(running):
        if not _lives(run.tags.get(_PID, "")):
            instance.report_run_failed(run, "The process was killed; finished steps are in the store.")


def _lives(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:
        return True
    return True
