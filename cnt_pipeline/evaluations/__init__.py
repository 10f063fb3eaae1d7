"""Evaluations: test completions scored and compared, the recovery curve with its controls, and the verdict."""

VERSION = 2
