"""Evaluations: test completions scored and compared, the frontier, the ranking's stability, the verdict."""

VERSION = 6
