"""Neuron rankings: DuckDB over the caches' statistics, one `.sql` file per scoring rule."""

VERSION = 3
