"""Judges: what turns a prompt and its answer into one of harmful, refused, safe, undetermined or incoherent."""
