"""What a user asks for: the study file, its slices per stage, and the steps that answer it."""
