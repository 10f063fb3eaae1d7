"""Measures: what counts as refusing, over-refusing, being coherent, useful or biased, and how sure a figure is."""

VERSION = 2
