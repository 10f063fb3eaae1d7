"""What the UI says of an asset: where it lies, how it came about, its columns and rows, best neurons, a small plot."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import dagster as dg
from cnt_pipeline.evaluations.schema import FRONTIER, NEEDED
from cnt_pipeline.pipeline.compare_steps import COST, EDITED
from cnt_pipeline.pipeline.find_steps import TRAINING
from cnt_pipeline.pipeline.run import Taken
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.store import Artifact

from assets import pictures

STAGES = {
    "models": ("safetensors", "What the model is: architecture, size and the digest of every file; how it was made."),
    "prompt_sets": (
        "parquet",
        "Prompts of every role: scoring, selection and test of three kinds, and what recipes teach.",
    ),
    "completions": ("torch", "What a model says on a prompt set; asked once, judged many times."),
    "activation_caches": ("torch", "What a probe measures at every neuron for every prompt, raw and as statistics."),
    "neuron_rankings": ("duckdb", "Every neuron with its score, from best to worst."),
    "transplants": ("safetensors", "The chosen neurons, the edited checkpoint with its proof, and the controls."),
    "evaluations": (
        "polars",
        "Scored completions, the frontier with its controls, the ranking's stability, the verdict.",
    ),
    "reports": ("html", "What was found, for people."),
}
"""Kind and description of every stage's assets."""

TOP_NEURONS = 20
_TOP_COLUMNS = ("rank", "layer", "family", "neuron", "score", "standard_error", "sign_agreement", "effect", "damage")
_JSON_SHOWN = (
    "selection.json", "verification.json", "summary.json", "verdict.json", "comparison.json", "matching.json",
)  # fmt: skip
_JSON_LIMIT = 6000
_MAIN_TABLES = ("ranking.parquet", "plan.parquet", "neurons.parquet", "metrics.parquet", FRONTIER)


def kinds(step: Step) -> set[str]:
    """Badges of the asset."""
    return {STAGES[step.stage][0], "parquet"} if step.stage not in ("models", "reports") else {STAGES[step.stage][0]}


def description(step: Step) -> str:
    """What the asset is, and the slice of the study that it depends on."""
    slice_ = json.dumps(step.slice, indent=1, sort_keys=True, default=str)
    return f"{STAGES[step.stage][1]}\n\nSlice of the study:\n\n```json\n{slice_}\n```"


def of(taken: Taken) -> dict[str, Any]:
    """Metadata of one materialization; some tens of kB at most."""
    artifact = taken.built.artifact
    entries: dict[str, Any] = {
        "cache": "hit" if taken.built.hit else "built",
        "why": taken.why,
        "fingerprint": taken.fingerprint,
        "digest": artifact.digest,
        "dagster/uri": artifact.uri,
        "size": sum(record.size for record in artifact.manifest.files.values()),
        "build_seconds": round(artifact.manifest.seconds, 2),
    }
    entries |= _tables(artifact)
    entries |= {
        name.removesuffix(".json"): dg.MetadataValue.json(document)
        for name in _JSON_SHOWN
        if (document := _document(artifact, name)) is not None
    }
    if "report.html" in artifact.manifest.files:
        entries["report"] = dg.MetadataValue.path(artifact.path("report.html"))
    return (
        entries
        | _training(artifact)
        | _neurons(artifact)
        | _frontier(artifact)
        | _edit(artifact)
        | _leaderboard(artifact)
    )


def _tables(artifact: Artifact) -> dict[str, Any]:
    """Columns of the first table and rows of all, from Parquet footers."""
    from pyarrow.parquet import read_metadata

    names = sorted(name for name in artifact.manifest.files if name.endswith(".parquet") and "/" not in name)
    if not names:
        return {}
    footers = {name: read_metadata(artifact.path(name)) for name in names}
    main = next((name for name in _MAIN_TABLES if name in footers), names[0])
    columns = [dg.TableColumn(field.name, str(field.type)) for field in footers[main].schema.to_arrow_schema()]
    rows = {name.removesuffix(".parquet"): footer.num_rows for name, footer in footers.items()}
    return {
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/row_count": footers[main].num_rows,
        "rows": dg.MetadataValue.json(_merged(rows)),
    }


def _merged(rows: Mapping[str, int]) -> dict[str, int]:
    """Rows by file; the shards of a family as one entry."""
    merged: dict[str, int] = {}
    for name, count in rows.items():
        stem, _, shard = name.rpartition("-")
        key = stem if stem and shard.isdigit() else name
        merged[key] = merged.get(key, 0) + count
    return merged


def _document(artifact: Artifact, name: str) -> Any:
    record = artifact.manifest.files.get(name)
    if record is None or record.size > _JSON_LIMIT:
        return None
    return json.loads(artifact.path(name).read_text(encoding="utf-8"))


def _neurons(artifact: Artifact) -> dict[str, Any]:
    """The best neurons of a ranking or plan as a table, and where in the network they sit."""
    name = next((name for name in ("ranking.parquet", "plan.parquet") if name in artifact.manifest.files), None)
    if name is None:
        return {}
    from pyarrow import compute
    from pyarrow.parquet import ParquetFile

    table = ParquetFile(artifact.path(name)).read()
    if "lookalike_weight" in table.column_names:
        table = table.filter(compute.equal(table["lookalike_weight"], compute.max(table["lookalike_weight"])))
    table = table.take(compute.sort_indices(table["rank"]))
    shown = [column for column in _TOP_COLUMNS if column in table.column_names]
    entries: dict[str, Any] = {}
    if table.num_rows:
        top = table.slice(0, TOP_NEURONS).select(shown).to_pylist()
        schema = dg.TableSchema([dg.TableColumn(column, _word(table.schema.field(column).type)) for column in shown])
        entries["top_neurons"] = dg.MetadataValue.table([dg.TableRecord(row) for row in top], schema)
        share = table if name == "plan.parquet" else table.slice(0, max(1, table.num_rows // 20))
        title = "Chosen neurons" if name == "plan.parquet" else "The best 5 % of the neurons"
        places = Counter(zip(share["layer"].to_pylist(), share["family"].to_pylist(), strict=True))
        entries["where"] = dg.MetadataValue.md(pictures.markdown(pictures.heat_map(title, places), title))
    return entries


def _word(kind: Any) -> str:
    """Arrow type as the UI's tables know it."""
    text = str(kind)
    return "int" if text.startswith("int") else "float" if text in ("float", "double") else "string"


def _training(artifact: Artifact) -> dict[str, Any]:
    """The loss of a fine-tuned model as a picture, and how the training went in figures."""
    if TRAINING not in artifact.manifest.files:
        return {}
    from pyarrow.parquet import ParquetFile

    picture = pictures.training(ParquetFile(artifact.path(TRAINING)).read().to_pylist())
    return {
        "training": dg.MetadataValue.md(pictures.markdown(picture, "Loss on the lessons' answers")),
        "recipe": dg.MetadataValue.json(artifact.manifest.metadata),
    }


def _frontier(artifact: Artifact) -> dict[str, Any]:
    """The frontier as a picture, and where its rows lie for whoever wants to draw them otherwise."""
    if FRONTIER not in artifact.manifest.files:
        return {}
    from pyarrow.parquet import ParquetFile

    path = artifact.path(FRONTIER)
    title = "Recovery against the share of parameters moved"
    picture = pictures.frontier(ParquetFile(path).read().to_pylist())
    return {
        "frontier": dg.MetadataValue.md(pictures.markdown(picture, title)),
        "parquet": dg.MetadataValue.path(path),
        "parameters_needed": dg.MetadataValue.json(json.loads(artifact.path(NEEDED).read_text(encoding="utf-8"))),
    }


def _edit(artifact: Artifact) -> dict[str, Any]:
    """How much of the target a compared method changed, and what that took."""
    if EDITED not in artifact.manifest.files:
        return {}
    found = artifact.manifest.metadata
    return {
        "parameters": found["parameters"], "modules": found["modules"], COST: dg.MetadataValue.json(found[COST])
    }  # fmt: skip


_BOARD, _BOARD_PAGE, _BOARD_TABLE = "leaderboard.json", "leaderboard.html", "leaderboard.md"


def _leaderboard(artifact: Artifact) -> dict[str, Any]:
    """The compared methods as a table: figures where they are computed, every column and the page where it is made."""
    if _BOARD in artifact.manifest.files:
        document = json.loads(artifact.path(_BOARD).read_text(encoding="utf-8"))
        return {"leaderboard": dg.MetadataValue.md(_board(document))}
    if _BOARD_PAGE in artifact.manifest.files:
        text = artifact.path(_BOARD_TABLE).read_text(encoding="utf-8")
        return {"leaderboard": dg.MetadataValue.md(text), "page": dg.MetadataValue.path(artifact.path(_BOARD_PAGE))}
    return {}


def _board(document: Mapping[str, Any]) -> str:
    metrics = [document["metric"], document["misfire"], "utility"]
    heads = ["", *metrics, "recovery", "share changed", "Pareto front"]
    rows = []
    for row in document["rows"]:
        figures = [row["metrics"].get(metric, {}).get("value") for metric in metrics]
        share = "–" if row["share"] is None else f"{row['share']:.2%}"
        cells = [_figure(value) for value in (*figures, row["recovery"])]
        rows.append([row["name"], *cells, share, "yes" if row["pareto"] else ""])
    lines = [heads, ["---", *("---:" for _ in heads[1:-1]), "---"], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
