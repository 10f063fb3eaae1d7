"""Builders: from a step's context to the files of its artifact. Thin: what they call lives in the stages' packages."""
