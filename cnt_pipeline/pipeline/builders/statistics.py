"""Builder of the comparison of test samples, model against model."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.evaluations.statistics import write_statistics
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.store import JSON


def compare(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`statistics.parquet` and `statistics.json`."""
    study = context.study
    aside = context.step.slice.get("aside", ())
    document = write_statistics(
        context.inputs["scores"].folder(), study.function, study.accept, study.seed, folder, aside
    )
    return {"verdicts": [f"{v['metric']} against {v['against']}: {v['sentence']}" for v in document["verdicts"]]}
