"""A study's steps taken one after the other: the artifacts so far, and models that stay loaded between steps."""

from collections.abc import Sequence
from typing import Protocol

from cnt_pipeline.errors import StoreError
from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.pipeline.interrupts import held_back
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT
from cnt_pipeline.pipeline.plan import request_for
from cnt_pipeline.pipeline.run import Taken, take
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.schema import Study

CARD = "card.md"
CARD_BESIDE_CHECKPOINT = "README.md"


class Watcher(Protocol):
    """Whoever follows a run. `progress` with a total of 0 means that the end is not known."""

    def started(self, step: Step) -> None: ...
    def progress(self, step: Step, what: str, done: int, total: int) -> None: ...
    def finished(self, taken: Taken) -> None: ...
    def failed(self, step: Step, error: BaseException) -> None: ...


class Unwatched:
    """Nobody follows."""

    def started(self, step: Step) -> None: ...
    def progress(self, step: Step, what: str, done: int, total: int) -> None: ...
    def finished(self, taken: Taken) -> None: ...
    def failed(self, step: Step, error: BaseException) -> None: ...


class Chain:
    """The steps of one study in one run; all of them, or those of `steps`."""

    def __init__(
        self, study: Study, store: Store, watcher: Watcher | None = None, steps: Sequence[Step] | None = None
    ) -> None:
        self.study = study
        self.store = store
        self._watcher = watcher or Unwatched()
        self._steps = {step.key: step for step in steps or steps_of(study)}
        self._models = ModelPool(study)
        self.ready: dict[str, Artifact] = {}

    def take(self, key: str) -> Taken:
        """Hit or build one step; the steps it reads were taken before, or lie in the store.

        Raises:
            CntError: as `cnt_pipeline.pipeline.run.take`, or a step that it reads is not in the store.
        """
        step = self._steps[key]
        self._watcher.started(step)
        try:
            for earlier in (*(source.step for source in step.inputs.values()), *step.after):
                self.artifact(earlier)
            with held_back() as look:

                def report(what: str, done: int, total: int) -> None:
                    look()
                    self._watcher.progress(step, what, done, total)

                taken = take(self.study, step, self.store, self.ready, self._models, report)
            self.ready[key] = taken.built.artifact
            if key == REPORT:
                self._put_card_beside_checkpoint()
        except BaseException as error:
            self._watcher.failed(step, error)
            raise
        self._watcher.finished(taken)
        return taken

    def artifact(self, key: str) -> Artifact:
        """The up-to-date artifact of an earlier step.

        Raises:
            StoreError: it is not in the store.
        """
        if key not in self.ready:
            step = self._steps[key]
            for source in step.inputs.values():
                self.artifact(source.step)
            request = request_for(self.study, step, self.store, self.ready)
            found = self.store.get(step.stage, request.fingerprint)
            if found is None:
                raise StoreError(
                    f"the step {key} is not up to date ({self.store.explain(request)}): materialize it too, "
                    f"or the whole study {self.study.study}"
                )
            self.ready[key] = found
        return self.ready[key]

    def _put_card_beside_checkpoint(self) -> None:
        card = self.ready[REPORT].path(CARD).read_text(encoding="utf-8")
        self.store.annotate(self.artifact(CHECKPOINT), CARD_BESIDE_CHECKPOINT, card)
