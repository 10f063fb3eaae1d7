"""Run a bundle's study again: prompt sets from the bundle, models from where the study names them."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.chain import read_resolved
from cnt_pipeline.lineage.documents import ReplayedStep
from cnt_pipeline.lineage.folder import copy_checked
from cnt_pipeline.lineage.record import Bundle
from cnt_pipeline.pipeline.chain import Chain, Watcher
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.outcome import REPORT
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.store import Artifact, BuildRequest, Manifest, Store
from cnt_pipeline.study.schema import Study


class Replay:
    """One study taken again, step by step.

    Raises:
        Broken: the bundle's study cannot be read.
        CntError: the study names a method that this cnt_pipeline does not know.
    """

    def __init__(self, bundle: Bundle, manifests: Mapping[str, Manifest], store: Store) -> None:
        self.bundle, self.manifests, self.store = bundle, manifests, store
        self.study: Study = read_resolved(bundle)
        self.steps: tuple[Step, ...] = needed_for([REPORT], steps_of(self.study))

    def take(self, watcher: Watcher) -> Iterator[ReplayedStep]:
        """Take every step, models from outside first: where one is not the bundle's, nothing else is computed.

        Raises:
            InputError: a model is not the one of the bundle, or the bundle lacks a prompt set.
            CntError: as the steps.
        """
        chain = Chain(self.study, self.store, watcher, self.steps)
        first = [step for step in self.steps if step.stage == "models" and not step.inputs]
        for step in first:
            yield self._taken(chain, step)
            if chain.ready[step.key].digest != self.manifests[step.key].digest:
                raise InputError(
                    f"{step.key} is not the model of the bundle (digest {chain.ready[step.key].digest[:12]}, the "
                    f"bundle's is {self.manifests[step.key].digest[:12]}): put that model where the study names it"
                )
        for step in self.steps:
            if step.stage == "prompt_sets":
                chain.ready[step.key] = self._from_bundle(step)
                yield self._compared(step.key, "from the bundle", chain.ready[step.key].manifest)
            elif step not in first:
                yield self._taken(chain, step)

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

        def copy(folder: Path) -> None:
            for name, record in manifest.files.items():
                source = self.bundle.place(step.key, name)
                if source is None:
                    raise InputError(
                        f"the bundle holds no {step.key}/{name}, without which nothing can be run again: give a folder "
                        "that `cnt bundle` wrote"
                    )
                copy_checked(source, folder / name, record.sha256)

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
