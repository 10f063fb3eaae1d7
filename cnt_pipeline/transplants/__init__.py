"""Transplants: which neurons move and how far, the checkpoint that results, and the proof that nothing else changed."""

VERSION = 8
