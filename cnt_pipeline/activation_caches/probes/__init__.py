"""Probes: what can be asked of every neuron. Each is a function from prompts to values by (layer, family)."""
