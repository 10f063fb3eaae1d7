"""Where everything lies in a bundle, and which files of a study's artifacts it holds.

bundle.json                  what the bundle is, how its steps hang together, and the SHA-256 of every other file
statement.intoto.json        the same facts as an in-toto statement, which names bundle.json
statement.dsse.json          the statement signed, where a key was given
model.sig                    signature of the whole folder in the OpenSSF model-signing format, where a key was given
study.yaml                   the study as it was written, and study.resolved.json with its places made absolute
suites/<suite>.yaml          suite files of the study's own, with the places in them made absolute
manifests/<step>.json        the store's manifest of every step
<step>/<file>                files of the step's artifact
tensors.json                 digest of every tensor of target, donor and checkpoint
bom.cdx.json                 CycloneDX ML-BOM
openlineage.jsonl            OpenLineage events, where asked for

`cnt export` puts a small bundle of this kind into the folder `lineage` of the checkpoint.
"""

from collections.abc import Iterator
from fnmatch import fnmatchcase

from cnt_pipeline.models.adapter_files import ADAPTER, WEIGHTS
from cnt_pipeline.pipeline.outcome import CHECKPOINT, REPORT, SCORES, SELECTION, VERDICT
from cnt_pipeline.store import Manifest
from cnt_pipeline.transplants.patch import FORWARD, INVERSE

INDEX = "bundle.json"
STATEMENT = "statement.intoto.json"
ENVELOPE = "statement.dsse.json"
OMS_SIGNATURE = "model.sig"
STUDY, RESOLVED = "study.yaml", "study.resolved.json"
MANIFESTS = "manifests"
SUITES = "suites/"
TENSORS = "tensors.json"
BOM = "bom.cdx.json"
EVENTS = "openlineage.jsonl"
VIEWS = (STUDY, RESOLVED, TENSORS, BOM, EVENTS)
"""Files of the index that are neither a manifest nor a file of an artifact."""
OUTSIDE_INDEX = (INDEX, STATEMENT, ENVELOPE, OMS_SIGNATURE)
"""Files that the index cannot name, since they depend on it."""

INSIDE_EXPORT = "lineage"
"""Folder of an exported checkpoint that holds its bundle."""

MODEL = "model/"
"""Files of a checkpoint artifact that make the model folder."""
PROMPT_SETS = "prompt_sets/roles"
DONOR = "models/donor"

_ALL = ("*",)
_BUNDLED: dict[str, tuple[str, ...]] = {
    "models/*": ("model.json", "comparison.json", "matching.json", "training.parquet"),
    DONOR: (f"{ADAPTER}/*",),
    "prompt_sets/*": _ALL,
    "completions/*/test": _ALL,
    "neuron_rankings/*": _ALL,
    "transplants/*": _ALL,
    "evaluations/*": _ALL,
    "reports/*": _ALL,
}
_EXPORTED: dict[str, tuple[str, ...]] = {
    "models/*": ("model.json",),
    SELECTION: ("plan.parquet",),
    SCORES: ("metrics.parquet",),
    VERDICT: _ALL,
}
_HOLDING_WEIGHTS: dict[str, tuple[str, ...]] = {
    CHECKPOINT: (f"{MODEL}*.safetensors", FORWARD.file, INVERSE.file),
    DONOR: (f"{ADAPTER}/{WEIGHTS}",),
}
"""Files that hold weights: of the checkpoint, and what was added to a base model to make the donor. That of the target
stays out of every bundle: in a repair it is what took the function away."""

SUBJECTS: dict[str, tuple[str, ...]] = {
    CHECKPOINT: (f"{MODEL}*",),
    REPORT: _ALL,
    SCORES: ("metrics.parquet",),
    VERDICT: ("verdict.json",),
}
"""Files that a statement vouches for by name: the checkpoint, the report and the numbers in it."""


def manifest_name(key: str) -> str:
    """Where the manifest of the step `key` lies in a bundle."""
    return f"{MANIFESTS}/{key}.json"


def matching(manifest: Manifest, patterns: tuple[str, ...]) -> list[str]:
    """Names of the artifact's files that match any of `patterns`, sorted."""
    return [name for name in sorted(manifest.files) if any(fnmatchcase(name, pattern) for pattern in patterns)]


def suite_name(label: str) -> str:
    """Where a suite file of the study's own lies in a bundle."""
    return f"{SUITES}{label}.yaml"


def is_weights(key: str, name: str) -> bool:
    """Whether a file of the step's artifact holds weights, which may be left out."""
    return any(fnmatchcase(name, pattern) for pattern in _HOLDING_WEIGHTS.get(key, ()))


def held(key: str, manifest: Manifest, exported: bool, weights: bool) -> Iterator[str]:
    """Names of the files of one artifact that a bundle holds; that of an export leaves out what lies beside it."""
    for steps, patterns in (_EXPORTED if exported else _BUNDLED).items():
        if fnmatchcase(key, steps):
            yield from (name for name in matching(manifest, patterns) if weights or not is_weights(key, name))
