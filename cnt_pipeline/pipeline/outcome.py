"""What a finished study found, read from its artifacts: metrics, verdict, transplant and report. Loads no model."""

import json
from collections.abc import Mapping
from typing import Any

from cnt_pipeline.pipeline.document_parts import Confusion, Interval, JudgePair, SuiteRow
from cnt_pipeline.pipeline.documents import CheckRow, MetricRow, TransplantSummary
from cnt_pipeline.pipeline.judge_steps import JUDGES
from cnt_pipeline.pipeline.suite_steps import suite_scores
from cnt_pipeline.store import Artifact
from cnt_pipeline.study.schema import Study

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


def suites_of(study: Study, ready: Mapping[str, Artifact]) -> list[SuiteRow]:
    """Every figure of the study's suites, suite by suite."""
    from pyarrow.parquet import ParquetFile

    columns = [name for name in SuiteRow.model_fields if name != "suite"]
    return [
        SuiteRow(suite=choice.label, **row)
        for choice in study.suites
        for row in ParquetFile(ready[suite_scores(choice.label)].path("metrics.parquet")).read(columns).to_pylist()
    ]


def judges_of(ready: Mapping[str, Artifact]) -> list[JudgePair]:
    """How far every two judges of the study agree; empty with fewer than two."""
    if JUDGES not in ready:
        return []
    document = json.loads(ready[JUDGES].path("judges.json").read_text(encoding="utf-8"))
    return [_judge_pair(pair) for pair in document["pairs"]]


def _judge_pair(pair: Mapping[str, Any]) -> JudgePair:
    def interval(name: str) -> Interval | None:
        found = pair[name]
        return found and Interval(value=found["value"], low=found["low"], high=found["high"])

    return JudgePair(
        **{key: pair[key] for key in ("one", "other", "question", "n", "unjudged")},
        agreed=interval("agreed"),
        kappa=interval("kappa"),
        confusion=Confusion(**{key: pair[key] for key in Confusion.model_fields}),
    )


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
