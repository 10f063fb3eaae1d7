"""Edits of whole weight matrices: what the realignment methods and the training-free peers do to a checkpoint."""
