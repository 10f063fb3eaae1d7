"""Reports: what was found, for people: one self-contained HTML page and a model card."""

VERSION = 10
