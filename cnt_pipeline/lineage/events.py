"""OpenLineage events of a finished study, a complete event per step, through openlineage-python's own classes and its
file transport (extra `openlineage`)."""

import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.record import Wiring
from cnt_pipeline.store import Manifest

NAMESPACE = "cnt-pipeline"
PRODUCER = "urn:cnt-pipeline"


def write_events(study: str, wiring: Wiring, manifests: Mapping[str, Manifest], path: Path) -> None:
    """Append one event per step to `path`, in the chain's order. Datasets are named by step, their version is the
    content digest; run ids follow from fingerprints, so that the same artifact is the same run everywhere.

    Raises:
        InputError: openlineage-python is not installed.
    """
    try:
        from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
        from openlineage.client.facet_v2 import DatasetFacet, dataset_version_dataset, nominal_time_run
        from openlineage.client.transport.file import FileConfig, FileTransport
    except ImportError as error:
        raise InputError(
            f"openlineage-python cannot be imported ({error}): run pip install 'cnt_pipeline[openlineage]'"
        ) from None
    transport = FileTransport(FileConfig(log_file_path=str(path), append=True))
    for key, manifest in manifests.items():

        def version(step: str) -> dict[str, DatasetFacet]:
            digest = manifests[step].digest
            return {"version": dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=digest)}

        ended = datetime.fromisoformat(manifest.created)
        began = ended - timedelta(seconds=manifest.seconds)
        read = dict.fromkeys(link.step for link in wiring[key].values())
        transport.emit(
            RunEvent(
                eventType=RunState.COMPLETE,
                eventTime=manifest.created,
                producer=PRODUCER,
                run=Run(
                    runId=str(uuid.uuid5(uuid.NAMESPACE_URL, f"{PRODUCER}:{manifest.fingerprint}")),
                    facets={
                        "nominalTime": nominal_time_run.NominalTimeRunFacet(
                            nominalStartTime=began.isoformat(), nominalEndTime=ended.isoformat()
                        )
                    },
                ),
                job=Job(namespace=NAMESPACE, name=f"{study}/{key}"),
                inputs=[InputDataset(NAMESPACE, f"{study}/{step}", facets=version(step)) for step in read],
                outputs=[OutputDataset(NAMESPACE, f"{study}/{key}", facets=version(key))],
            )
        )
