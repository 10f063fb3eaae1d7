"""Lineage that leaves the store: bundles of evidence, views of it in public formats, and their proof."""
