"""Run a bundle's study again: prompt sets from the bundle, models from where the study names them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.chain import read_resolved
from cnt_pipeline.lineage.documents import ReplayedStep
from cnt_pipeline.lineage.folder import copy_checked
from cnt_pipeline.lineage.models import OUTSIDE
from cnt_pipeline.lineage.record import Bundle
from cnt_pipeline.pipeline.chain import Chain, Watcher
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.outcome import REPORT
from cnt_pipeline.pipeline.plan import external_digest
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.store import Artifact, BuildRequest, Manifest, Store
from cnt_pipeline.study.schema import Judge, Study


class Replay:
    """One study taken again, step by step.

    Raises:
        Broken: the bundle's study cannot be read.
        CntError: the study names a method that this cnt_pipeline does not know, or the steps are others here.
    """

    def __init__(self, bundle: Bundle, manifests: Mapping[str, Manifest], store: Store) -> None:
        self.bundle, self.manifests, self.store = bundle, manifests, store
        self.study: Study = read_resolved(bundle)
        self.steps: tuple[Step, ...] = needed_for([REPORT], steps_of(self.study))
        odd = sorted({step.key for step in self.steps} ^ manifests.keys())
        if odd:
            raise InputError(
                f"this cnt_pipeline takes other steps for the study than the bundle holds, first {odd[0]}: replay it "
                f"with cnt_pipeline {bundle.index.code['version']} as it was then"
            )

    def take(self, watcher: Watcher) -> Iterator[ReplayedStep]:
        """Take every step. Where a model, a judge or a task from outside is not the bundle's, nothing is computed.

        Raises:
            InputError: one of those is not the bundle's, or the bundle lacks a prompt set.
            CntError: as the steps.
        """
        for step in self.steps:
            self._refuse_other(step)
        chain = Chain(self.study, self.store, watcher, self.steps)
        for step in self.steps:
            if step.stage == "prompt_sets":
                chain.ready[step.key] = self._from_bundle(step)
                yield self._compared(step.key, "from the bundle", chain.ready[step.key].manifest)
            else:
                yield self._taken(chain, step)

    def _refuse_other(self, step: Step) -> None:
        """Refuse what a step reads from outside where it is not what the bundle's step read; prompts it brings."""
        if step.external is None or step.stage == "prompt_sets":
            return
        found = external_digest(self.study, step.external, self.store)
        recorded = self.manifests[step.key].inputs[OUTSIDE]
        if found != recorded:
            kind = "model" if step.stage == "models" else "judge" if isinstance(step.external, Judge) else "task"
            raise InputError(
                f"{step.key} is not the {kind} of the bundle (its files have the digest {found[:12]}, the bundle's had "
                f"{recorded[:12]}): put that {kind} where the study names it"
            )

    def _taken(self, chain: Chain, step: Step) -> ReplayedStep:
        built = chain.take(step.key).built
        return self._compared(step.key, "hit" if built.hit else "built", built.artifact.manifest)

    def _from_bundle(self, step: Step) -> Artifact:
        """The bundle's artifact in this store, under the fingerprint that it had: its sources may be absent here."""
        manifest = self.manifests[step.key]
        request = BuildRequest(
            key=step.key,
            stage=manifest.stage,
            version=manifest.stage_version,
            slice=manifest.slice,
            inputs=manifest.inputs,
            study=self.study.study,
        )

        def copy(folder: Path) -> dict[str, Any]:
            for name, record in manifest.files.items():
                source = self.bundle.place(step.key, name)
                if source is None:
                    raise InputError(
                        f"the bundle holds no {step.key}/{name}, without which nothing can be run again: give a folder "
                        "that `cnt bundle` wrote"
                    )
                copy_checked(source, folder / name, record.sha256)
            return manifest.metadata  # the report tells how many prompts a suite left out

        return self.store.get_or_build(request, copy).artifact

    def _compared(self, key: str, state: str, made: Manifest) -> ReplayedStep:
        recorded = self.manifests[key]
        names = sorted(made.files.keys() | recorded.files.keys())
        return ReplayedStep.model_validate(
            {
                "key": key,
                "state": state,
                "agrees": made.digest == recorded.digest,
                "digest": made.digest,
                "recorded": recorded.digest,
                "differing": [name for name in names if made.files.get(name) != recorded.files.get(name)],
            }
        )
