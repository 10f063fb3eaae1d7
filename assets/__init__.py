"""The Dagster layer: studies as asset graphs. The only code that imports dagster; it computes nothing itself."""
