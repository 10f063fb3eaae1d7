"""The views of `cnt query`: every kind of artifact as one table over all studies of a store."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.store import Artifact, Head, Store

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class View:
    """A view over the files `files` of the steps `steps` (patterns).

    Rows begin with `study` and `step`, then what `named` takes from the step's key or the file's name, so that views
    join. `select` is what is taken from the file; a JSON file is read as one row.
    """

    name: str
    steps: str
    files: str
    meaning: str
    named: Literal["", "subject", "objective", "rule", "control"] = ""
    select: str = "*"


_CHECKS = 'STRUCT(name VARCHAR, passed BOOLEAN, value DOUBLE, "limit" DOUBLE, sentence VARCHAR)[]'

VIEWS: tuple[View, ...] = (
    View("models", "models/[td]*", "model.json", "size and kind of both models", "subject", "* EXCLUDE (files)"),
    View("prompts", "prompt_sets/*", "*.parquet", "every prompt with its split and kind"),
    View("completions", "completions/*", "*.parquet", "what each subject said; `kind` is the file's", "subject"),
    View("effects", "activation_caches/*", "statistics.parquet", "statistics of every probe by neuron", "objective"),
    View("effect_rows", "activation_caches/*", "*-[0-9]*.parquet", "raw values by prompt and layer", "objective"),
    View("rankings", "neuron_rankings/*", "ranking.parquet", "every neuron's score and rank by effect", "rule"),
    View("plan", "transplants/selection", "plan.parquet", "the chosen neurons and where their weights lie"),
    View("moved_neurons", "transplants/checkpoint", "neurons.parquet", "what moved, with digests before and after"),
    View("trials", "transplants/selection", "trials.parquet", "every candidate that the search tried"),
    View(
        "trial_samples", "transplants/selection", "trial_samples.parquet",
        "what every candidate said on selection prompts; `asked` joins trials, 0 is the target, 1 the donor",
    ),
    View("selection", "transplants/selection", "selection.json", "the chosen setting and its figures"),
    View("controls", "transplants/controls", "*.parquet", "neurons of the controls", "control"),
    View("samples", "evaluations/scores", "samples.parquet", "every judged sample of the test prompts"),
    View("metrics", "evaluations/scores", "metrics.parquet", "every metric with its interval; `source` '' is all"),
    View(
        "statistics", "evaluations/statistics", "statistics.parquet",
        "every subject against target and donor by metric: test, interval, corrected p, smallest difference seen",
    ),
    View("verdicts", "evaluations/judged_*", "verdicts.parquet", "what every judge says of every answer"),
    View(
        "frontier", "evaluations/frontier", "frontier.parquet",
        "recovery against parameters moved; `variant` null stands for a series, the others are single draws",
    ),
    View(
        "frontier_samples", "evaluations/frontier", "frontier_samples.parquet",
        "what every set of neurons of the frontier said; `asked` joins frontier, 0 is the target, 1 the donor",
    ),
    View("suite_metrics", "evaluations/suite_*", "metrics.parquet", "figures of every suite with their intervals"),
    View("suite_samples", "evaluations/suite_*", "samples.parquet", "every judged answer to a suite"),
    View("stability", "evaluations/stability", "stability.parquet", "rankings from resampled prompts"),
    View(
        "checks", "evaluations/verdict", "verdict.json", "the quality gates",
        select=f"unnest(CAST(checks AS {_CHECKS}), recursive := true)",
    ),
)  # fmt: skip
ARTIFACTS = ("artifacts", "every step of every study: stage, fingerprint, digest, size, created, seconds")


def used(sql: str) -> list[View]:
    """Views whose names occur in `sql`, all for SHOW; only their files are fetched from a remote store."""
    words = {word.lower() for word in re.findall(r"\w+", sql)}
    if "show" in words:
        return list(VIEWS)
    return [view for view in VIEWS if view.name in words]


def create(connection: "duckdb.DuckDBPyConnection", store: Store, views: Sequence[View]) -> list[str]:
    """Create `views` and `artifacts` in `connection`; returns a remark for every artifact that cannot be used."""
    heads = store.heads()
    _create_artifacts(connection, heads)
    remarks: list[str] = []
    for view in views:
        parts = list(_parts(store, heads, view, remarks))
        if parts:
            connection.execute(f'CREATE VIEW "{view.name}" AS {" UNION ALL BY NAME ".join(parts)}')
    return list(dict.fromkeys(remarks))


def _create_artifacts(connection: "duckdb.DuckDBPyConnection", heads: Sequence[Head]) -> None:
    connection.execute(
        "CREATE TABLE artifacts (study VARCHAR, step VARCHAR, stage VARCHAR, fingerprint VARCHAR, digest VARCHAR, "
        "files INTEGER, size BIGINT, created VARCHAR, seconds DOUBLE)"
    )
    rows = [
        (h.study, h.key, h.manifest.stage, h.manifest.fingerprint, h.manifest.digest, len(h.manifest.files),
         h.manifest.size, h.manifest.created, h.manifest.seconds)
        for h in heads
    ]  # fmt: skip
    if rows:
        connection.executemany("INSERT INTO artifacts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _parts(store: Store, heads: Sequence[Head], view: View, remarks: list[str]) -> Iterator[str]:
    for head in heads:
        if not fnmatchcase(head.key, view.steps):
            continue
        names = [name for name in head.manifest.files if fnmatchcase(name, view.files) and "/" not in name]
        if not names:
            continue
        try:
            artifact = store.get(head.manifest.stage, head.manifest.fingerprint)
        except BrokenArtifactError as error:
            remarks.append(str(error))
            continue
        if artifact is None:
            remarks.append(f"{head.key} of {head.study} is no longer in the store; `cnt run` builds it again")
            continue
        yield from _selects(view, head, artifact, names)


def _selects(view: View, head: Head, artifact: Artifact, names: Sequence[str]) -> Iterator[str]:
    for group in _groups(names):
        columns = {"study": head.study, "step": head.key, **_labels(view, head.key, group[0])}
        fixed = ", ".join(f"{_text(value)} AS {name}" for name, value in columns.items())
        files = ", ".join(_text(str(artifact.path(name))) for name in group)
        reader = "read_json" if group[0].endswith(".json") else "read_parquet"
        yield f"SELECT {fixed}, {view.select} FROM {reader}([{files}])"


def _groups(names: Sequence[str]) -> list[list[str]]:
    """Files by stem: the shards of a family are read as one table."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"-\d+\.parquet$", "", name), []).append(name)
    return list(groups.values())


def _labels(view: View, key: str, file: str) -> Mapping[str, str]:
    """Columns that say which of several alike artifacts or files a row is from."""
    parts, stem = key.split("/"), file.removesuffix(".parquet")
    if view.name == "completions":
        return {"subject": parts[1], "split": parts[2], "kind": stem}
    if view.name == "effect_rows":
        return {"probe": parts[1], "objective": parts[-1], "family": re.sub(r"-\d+$", "", stem)}
    if view.named == "objective":
        return {"probe": parts[1], "objective": parts[-1]}
    if view.named == "control":
        return {"control": stem}
    return {view.named: parts[-1]} if view.named else {}


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
