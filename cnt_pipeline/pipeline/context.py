"""What a builder gets: the study, its inputs by name, and models that stay loaded from one step to the next."""

import copy
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cnt_pipeline.errors import StoreError
from cnt_pipeline.models.architecture import Architecture, read_architecture
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.models.tensors import CheckpointIndex, read_index
from cnt_pipeline.pipeline.places import folder_of
from cnt_pipeline.pipeline.step import MATCHED, Step
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.store import JSON, Artifact
from cnt_pipeline.study.schema import Study

if TYPE_CHECKING:
    from cnt_pipeline.models.gates import GatedSwap

T = TypeVar("T")

_ASKS_GUESTS = ("completions.of_transplant", "suites.")
"""Builders of the steps that ask a written checkpoint, and of those between them."""


class ModelPool:
    """Loads each model at most once a run. Nothing is loaded until a builder asks."""

    def __init__(self, study: Study, artifacts: Mapping[str, Artifact] | None = None) -> None:
        self.study = study
        self.artifacts = artifacts if artifacts is not None else {}
        """Artifacts of the steps taken so far: where the derived models lie."""
        self._kept: dict[tuple[str, str], Any] = {}
        self._started = False
        self._alias: dict[str, str] = {}
        self._guest: dict[Path, Any] = {}
        """At most one model from outside the study, shared by the pools of all steps."""

    def for_step(self, step: Step) -> "ModelPool":
        """The pool as a step finds it: one that reads the matched donor gets that for its donor.

        A guest is let go where a step begins that may need its memory for something else.
        """
        if not step.builder.startswith(_ASKS_GUESTS):
            self._guest.clear()
        if all(source.step != MATCHED for source in step.inputs.values()):
            return self
        pool = copy.copy(self)  # what is loaded stays shared
        pool._alias = {"donor": MATCHED.removeprefix("models/")}
        return pool

    def folder(self, which: str) -> Path:
        """Local folder of a model of the study; of a derived one, in the artifact of its step.

        Raises:
            StoreError: a derived model whose step was not taken.
            InputError: a source that cannot be found.
        """
        found = folder_of(self.study, self._alias.get(which, which), self.artifacts)
        if found is None:
            raise StoreError(f"the model '{which}' is not made yet: materialize models/{which} first")
        return found

    def index(self, which: str) -> CheckpointIndex:
        """Header index of a model of the study."""
        return self._once("index", which, lambda: read_index(self.folder(which)))

    def architecture(self) -> Architecture:
        """Neuron spaces of the target, which the donor shares."""
        return self._once("architecture", "target", lambda: read_architecture(self.folder("target")))

    def tokenizer(self) -> Any:
        """The tokenizer that target and donor share."""
        return self._once("tokenizer", "target", lambda: load_tokenizer(self.folder("target")))

    def model(self, which: str) -> Any:
        """A model of the study as loaded; never edited outside a gated swap's contexts."""
        return self._once("model", which, lambda: self.load(self.folder(which)))

    def guest(self, folder: Path) -> Any:
        """The model of a checkpoint that the study wrote, loaded from its files as a user would; never edited.

        It stays for the steps that ask it next. There is one guest at a time, so that memory never holds more than the
        first of these steps needs: the study's models and the checkpoint.
        """
        if folder not in self._guest:
            self._guest.clear()
            self._guest[folder] = self.load(folder)
        return self._guest[folder]

    def swap(self, donor: str = "donor") -> "GatedSwap":
        """The gated swap of the target and a donor, on the pool's target."""
        from cnt_pipeline.models.gates import GatedSwap

        return self._once(
            "swap",
            donor,
            lambda: GatedSwap(
                self.model("target"),
                self.architecture(),
                self.index(donor),
                self.index("target"),
                self.study.run.donor_memory,
                self.study.run.checkpointing,
            ),
        )

    def load(self, folder: Path) -> Any:
        """A model of its own from a checkpoint folder, in the study's dtype on its device."""
        self.start_torch()
        return load_model(folder, dtype=self.study.dtype, device=self.study.run.device)

    def start_torch(self) -> None:
        """Set torch's threads before its first work."""
        if self._started:
            return
        # Threads that sleep while they wait save a factor of five on a busy machine; that they spin for some
        # microseconds before gives back what this costs on an idle one.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        import torch

        if self.study.run.threads is not None:
            torch.set_num_threads(self.study.run.threads)
        self._started = True

    def _once(self, what: str, which: str, make: Callable[[], T]) -> T:
        which = self._alias.get(which, which)
        if (what, which) not in self._kept:
            self._kept[what, which] = make()
        kept: T = self._kept[what, which]
        return kept


@dataclass(frozen=True)
class Context:
    """One step's build: `inputs` are artifacts by the names that the step gives them."""

    study: Study
    step: Step
    inputs: Mapping[str, Artifact]
    models: ModelPool
    report: Report = field(default=silent)

    def path(self, name: str, file: str) -> Path:
        """Local path of one file of an input."""
        return self.inputs[name].path(file)

    @property
    def batch_size(self) -> int:
        """Prompts a batch."""
        return self.study.run.batch_size


def read_json(context: Context, name: str, file: str) -> dict[str, Any]:
    """A JSON document among the files of an input."""
    document: dict[str, Any] = json.loads(context.path(name, file).read_text(encoding="utf-8"))
    return document


Build = Callable[[Context, Path], Mapping[str, JSON]]
