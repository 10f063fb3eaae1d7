"""The in-toto statement of a bundle: SLSA provenance of the checkpoint, its report and its figures.

Everything in it follows from the manifests, so that a verifier makes it anew and compares. Formats: in-toto Statement
v1 (github.com/in-toto/attestation), SLSA provenance v1 (slsa.dev/spec/v1.0/provenance).
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.models import given_models
from cnt_pipeline.lineage.record import Bundle
from cnt_pipeline.pipeline.outcome import CHECKPOINT
from cnt_pipeline.store import Manifest

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:cnt-pipeline:study:1"


def statement(bundle: Bundle, manifests: Mapping[str, Manifest], index_digest: str) -> dict[str, Any]:
    """The statement, of manifests sorted by key. `index_digest` is the SHA-256 of the bundle's index, through which it
    vouches for every file.

    Raises:
        Broken: the bundle lacks the description of a model.
    """
    began, ended = times(manifests)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            *({"name": name, "digest": {"sha256": digest}} for name, digest in subjects(manifests)),
            {"name": layout.INDEX, "digest": {"sha256": index_digest}},
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "study": bundle.index.study,
                    "purpose": bundle.index.purpose,
                    "studySha256": bundle.index.files[layout.STUDY].sha256,
                },
                "internalParameters": {
                    key: {
                        "stageVersion": manifest.stage_version,
                        "fingerprint": manifest.fingerprint,
                        "slice": manifest.slice,
                    }
                    for key, manifest in manifests.items()
                },
                "resolvedDependencies": list(_dependencies(bundle, manifests)),
            },
            "runDetails": {
                "builder": {"id": f"urn:cnt-pipeline:{bundle.index.code['version']}", "version": bundle.index.code},
                "metadata": {
                    "invocationId": manifests[CHECKPOINT].fingerprint,
                    "startedOn": began.isoformat(timespec="milliseconds"),
                    "finishedOn": ended.isoformat(timespec="milliseconds"),
                },
                "byproducts": [
                    {
                        "name": key,
                        "digest": {"sha256": manifest.digest},
                        "annotations": {
                            "environment": manifest.environment,
                            "created": manifest.created,
                            "seconds": manifest.seconds,
                        },
                    }
                    for key, manifest in manifests.items()
                ],
            },
        },
    }


def subjects(manifests: Mapping[str, Manifest]) -> Iterator[tuple[str, str]]:
    """Name in the bundle and SHA-256 of every file that the statement vouches for by name."""
    for key, patterns in layout.SUBJECTS.items():
        for name in layout.matching(manifests[key], patterns):
            yield f"{key}/{name}", manifests[key].files[name].sha256


def times(manifests: Mapping[str, Manifest]) -> tuple[datetime, datetime]:
    """When the first step began and the last one ended."""
    ends = {key: datetime.fromisoformat(manifest.created) for key, manifest in manifests.items()}
    return min(ends[key] - timedelta(seconds=manifests[key].seconds) for key in ends), max(ends.values())


def _dependencies(bundle: Bundle, manifests: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    """Files of the models that came from outside, and the prompt sets, those of suites too."""
    for key, files in given_models(bundle, manifests).items():
        for name, digest in files.items():
            yield {"name": f"{key}/{name}" if name else key, "digest": {"sha256": digest}}
    for key, manifest in sorted(manifests.items()):
        if manifest.stage == "prompt_sets":
            for name, record in sorted(manifest.files.items()):
                yield {"name": f"{key}/{name}", "digest": {"sha256": record.sha256}}
