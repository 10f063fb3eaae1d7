"""Completions: what a model says on a prompt set, and how likely it finds the answers it could have given."""

VERSION = 6
