"""The packaged demonstration pair: a generated language, its prompt sets, and the models trained on it."""
