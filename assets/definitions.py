"""The code location: every study of the project as an asset graph with a job of its own."""

import logging

import dagster as dg
from cnt_pipeline.errors import CntError, StudyError
from cnt_pipeline.pipeline.project import study_files
from cnt_pipeline.study.load import load_study

from assets.automation import sensor
from assets.binding import StudyAssets, broken_study, identifier
from assets.resources import resources

log = logging.getLogger("dagster")


@dg.definitions
def definitions() -> dg.Definitions:
    """All studies. One that cannot be read becomes an asset that says why; the others stay usable."""
    assets: list[dg.AssetsDefinition] = []
    jobs: dict[str, dg.UnresolvedAssetJobDefinition] = {}
    for path in study_files():
        try:
            study = load_study(path)
            name = identifier(study.study)
            if name in jobs:
                raise StudyError(f"{path}:study: another study file is called '{study.study}' too; rename one of them")
            bound = StudyAssets(study)
        except CntError as error:
            log.error("%s", error)
            assets.append(broken_study(path.stem, error))
            continue
        assets += bound.definitions
        keys = [bound.key(step.key) for step in bound.steps]
        jobs[name] = dg.define_asset_job(
            name, selection=keys, description=f"The whole study {study.study} ({path.name})."
        )
    return dg.Definitions(
        assets=assets,
        jobs=list(jobs.values()),
        sensors=[sensor()],
        resources=resources(),
        executor=dg.in_process_executor,
    )
