"""Rows of the method table that edit whole matrices, with their options; none of these modules imports torch."""
