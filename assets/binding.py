"""Steps become assets: one asset a step, whose body asks the store and reports what it answered."""

import re
from collections.abc import Iterator

import dagster as dg
from cnt_pipeline.errors import CntError
from cnt_pipeline.pipeline.chain import Chain, Watcher
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text
from cnt_pipeline.study.schema import Study

from assets import checks, metadata
from assets.automation import CONDITION
from assets.resources import ArtifactStore, StudySettings

MODEL_POOL = "model"
LOADING_BUILDERS = (
    "models.fine_tune",
    "models.dequantise",
    "models.match_donor",
    "completions.",
    "activation_caches.",
    "transplants.select",
    "evaluations.frontier",
    "transplants.edit",
    "suites.answer",
    "suites.harness",
    "judges.judge",
)
"""Builders that load models or their tensors; in the UI one runs at a time (`concurrency.pools` in dagster.yaml)."""


class StudyAssets:
    """The asset graph of one study.

    `pooled` makes model-heavy steps wait for each other across runs: right under a daemon, which frees the place of
    a killed run; without one (`cnt run`) a place that was never freed would block every later run.
    """

    def __init__(self, study: Study, watcher: Watcher | None = None, pooled: bool = True) -> None:
        self.study = study
        self.steps = steps_of(study)
        self.definitions = [self._asset(step, pooled) for step in self.steps]
        self._watcher = watcher
        self._run: tuple[str, Chain] | None = None

    def key(self, step: str) -> dg.AssetKey:
        """Asset of a step: study, stage, and the rest as one word, since graphs show only the last part of a key."""
        stage, *rest = step.split("/")
        return dg.AssetKey([self.study.study, stage, "_".join(rest)])

    def chain(self, run_id: str, store: ArtifactStore, settings: StudySettings) -> Chain:
        """The chain of a run: steps of one run in one process share loaded models and artifacts found."""
        if self._run is None or self._run[0] != run_id:
            self._run = (run_id, Chain(settings.applied_to(self.study), store.open(), self._watcher))
        return self._run[1]

    def _asset(self, step: Step, pooled: bool) -> dg.AssetsDefinition:
        spec = dg.AssetSpec(
            key=self.key(step.key),
            deps=[self.key(name) for name in sorted({*(source.step for source in step.inputs.values()), *step.after})],
            group_name=step.stage,
            kinds=metadata.kinds(step),
            code_version=code_version(step),
            description=metadata.description(step),
            automation_condition=CONDITION,
        )

        @dg.multi_asset(
            name=identifier(self.study.study, step.key),
            specs=[spec],
            check_specs=checks.specs(spec.key, step),
            pool=MODEL_POOL if pooled and step.builder.startswith(LOADING_BUILDERS) else None,
        )
        def take(
            context: dg.AssetExecutionContext, store: ArtifactStore, settings: StudySettings
        ) -> Iterator[dg.MaterializeResult[None]]:
            try:
                taken = self.chain(context.run.run_id, store, settings).take(step.key)
            except CntError as error:
                raise dg.Failure(str(error), metadata={"error": type(error).__name__}, allow_retries=False) from error
            yield dg.MaterializeResult(
                asset_key=spec.key,
                data_version=dg.DataVersion(taken.built.artifact.digest),
                metadata=metadata.of(taken),
                check_results=checks.results(spec.key, taken),
            )

        return take


def broken_study(name: str, error: CntError) -> dg.AssetsDefinition:
    """Stands in the graph for a study file that cannot be read, and says why."""
    sentence = str(error)

    @dg.asset(
        key=dg.AssetKey([re.sub(r"[^A-Za-z0-9_-]", "_", name), "study"]),
        group_name="broken_studies",
        kinds={"yaml"},
        description=f"This study file is at fault:\n\n{sentence}",
        metadata={"error": dg.MetadataValue.text(sentence)},
    )
    def study() -> None:
        raise dg.Failure(sentence, allow_retries=False)

    return study


def code_version(step: Step) -> str:
    """Version of the stage's code and digest of the step's slice of the study: what makes the asset stale in the UI."""
    return f"{step.version}-{sha256_text(canonical_json(step.slice))[:12]}"


def identifier(*names: str) -> str:
    """A name that Dagster accepts for jobs and ops."""
    return re.sub(r"[^A-Za-z0-9_]", "_", "__".join(names))
