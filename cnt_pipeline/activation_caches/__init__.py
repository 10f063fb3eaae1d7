"""Activation caches: what a probe measures at every neuron for every prompt, kept raw and as mergeable statistics."""

VERSION = 2
