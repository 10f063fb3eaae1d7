"""What a finished study found, read from its artifacts: metrics, verdict, transplant and report. Loads no model."""

import json
from collections.abc import Mapping
from typing import Any

from cnt_pipeline.pipeline.documents import CheckRow, MetricRow, TransplantSummary
from cnt_pipeline.store import Artifact

SCORES, VERDICT, SELECTION = "evaluations/scores", "evaluations/verdict", "transplants/selection"
CHECKPOINT, REPORT = "transplants/checkpoint", "reports/page"
REPORT_FILE = "report.html"


def subject_word(subject: str) -> str:
    """A subject as documents name it: `control_random` is `control:random`."""
    return subject.replace("control_", "control:", 1)


def metrics_of(ready: Mapping[str, Artifact]) -> list[MetricRow]:
    """Every figure of the test prompts, subject by subject."""
    from pyarrow.parquet import ParquetFile

    columns = ["subject", "metric", "source", "value", "low", "high", "n"]
    rows = ParquetFile(ready[SCORES].path("metrics.parquet")).read(columns).to_pylist()
    pooled = [row for row in rows if not row.pop("source")]
    return [MetricRow(**{**row, "subject": subject_word(row["subject"])}) for row in pooled]


def verdict_of(ready: Mapping[str, Artifact]) -> dict[str, Any]:
    """`verdict.json`: verdict, sentence, recovery, checks."""
    document: dict[str, Any] = json.loads(ready[VERDICT].path("verdict.json").read_text(encoding="utf-8"))
    return document


def checks_of(verdict: Mapping[str, Any]) -> list[CheckRow]:
    """The quality gates of a verdict."""
    return [CheckRow(**check) for check in verdict["checks"]]


def transplant_of(ready: Mapping[str, Artifact]) -> TransplantSummary:
    """Size and place of the transplant."""
    chosen = json.loads(ready[SELECTION].path("selection.json").read_text(encoding="utf-8"))
    return TransplantSummary(
        **{key: chosen[key] for key in ("neurons", "parameters", "share", "eta")},
        path=f"{ready[CHECKPOINT].uri}/model",
    )


def report_of(ready: Mapping[str, Artifact]) -> str:
    """Local path of the HTML report."""
    return str(ready[REPORT].path(REPORT_FILE))
