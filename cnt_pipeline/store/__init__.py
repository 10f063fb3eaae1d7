"""The artifact store: every stage's results, each under the fingerprint of what it was made from.

A step that was ever built is never built again: `Store.get_or_build` finds it by its fingerprint, whoever
built it. What is stored is whole (a kill at any moment leaves nothing under a final name), and what was
damaged later is noticed and rebuilt.
"""

from cnt_pipeline.store.artifact import Artifact, Built, State
from cnt_pipeline.store.collect import Removed
from cnt_pipeline.store.heads import Head
from cnt_pipeline.store.manifest import JSON, FileRecord, Manifest
from cnt_pipeline.store.publish import Builder
from cnt_pipeline.store.request import BuildRequest
from cnt_pipeline.store.store import Store

__all__ = [
    "JSON",
    "Artifact",
    "BuildRequest",
    "Builder",
    "Built",
    "FileRecord",
    "Head",
    "Manifest",
    "Removed",
    "State",
    "Store",
]
