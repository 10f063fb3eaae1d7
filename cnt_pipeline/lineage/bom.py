"""CycloneDX 1.6 ML-BOM of a checkpoint: target, donor and prompt sets as components, and a model card.

Format: cyclonedx.org/docs/1.6/json (ECMA-424).
"""

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from cnt_pipeline import __version__
from cnt_pipeline.lineage import layout
from cnt_pipeline.lineage.statement import times
from cnt_pipeline.pipeline.outcome import CHECKPOINT
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.store import Manifest
from cnt_pipeline.study.schema import Study

_TRANSPLANT = "transplant"


def document(study: Study, manifests: Mapping[str, Manifest], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """The BOM; `metrics` are the pooled rows of the evaluation's `metrics.parquet`."""
    checkpoint = manifests[CHECKPOINT]
    components = [*_models(study, manifests), *_prompt_sets(manifests)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'urn:cnt-pipeline:{checkpoint.fingerprint}')}",
        "version": 1,
        "metadata": {
            "timestamp": times(manifests)[1].isoformat(timespec="milliseconds"),
            "tools": {"components": [{"type": "application", "name": "cnt_pipeline", "version": __version__}]},
            "component": {
                "type": "machine-learning-model",
                "bom-ref": _TRANSPLANT,
                "name": study.study,
                "version": checkpoint.digest[:12],
                "description": f"The target with the donor's neurons that carry {study.function.name}",
                "modelCard": _card(study, manifests, metrics),
                "components": [
                    _file(CHECKPOINT, name, checkpoint.files[name].sha256)
                    for name in layout.matching(checkpoint, (f"{layout.MODEL}*",))
                ],
                "properties": [
                    {"name": "cnt:purpose", "value": study.purpose},
                    {"name": "cnt:fingerprint", "value": checkpoint.fingerprint},
                ],
            },
        },
        "components": components,
        "dependencies": [
            {"ref": _TRANSPLANT, "dependsOn": [component["bom-ref"] for component in components]},
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }


def _card(study: Study, manifests: Mapping[str, Manifest], metrics: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "bom-ref": f"{_TRANSPLANT}-card",
        "modelParameters": {
            "task": "text-generation",
            "approach": {"type": "supervised"},
            "datasets": [{"ref": prompts["bom-ref"]} for prompts in _prompt_sets(manifests)],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [
                {
                    "type": row["metric"],
                    "value": f"{row['value']:.6g}",
                    "slice": row["subject"],
                    "confidenceInterval": {"lowerBound": f"{row['low']:.6g}", "upperBound": f"{row['high']:.6g}"},
                }
                for row in metrics
            ]
        },
        "considerations": {
            "technicalLimitations": [
                "Tested on greedy answers to the study's prompts and to no attack: not a sole safeguard."
            ],
        },
    }


def _models(study: Study, manifests: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    for name in study.models.in_order():
        manifest = manifests[f"models/{name}"]
        yield {
            "type": "machine-learning-model",
            "bom-ref": f"models/{name}",
            "name": source_name(study.models, name),
            "properties": [
                {"name": "cnt:role", "value": name},
                {"name": "cnt:content-digest", "value": manifest.digest},
            ],
        }


def _prompt_sets(manifests: Mapping[str, Manifest]) -> Iterator[dict[str, Any]]:
    for name, record in sorted(manifests[layout.PROMPT_SETS].files.items()):
        yield {
            "type": "data",
            "bom-ref": _ref(layout.PROMPT_SETS, name),
            "name": name,
            "hashes": [{"alg": "SHA-256", "content": record.sha256}],
            "data": [{"type": "dataset", "name": name}],
        }


def _file(key: str, name: str, sha256: str) -> dict[str, Any]:
    return {
        "type": "file",
        "bom-ref": _ref(key, name),
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": sha256}],
    }


def _ref(key: str, name: str) -> str:
    return f"{key}/{name}"
