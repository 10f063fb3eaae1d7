"""Prompt sets: any source of prompts becomes Parquet with one row per prompt and one file per role."""

VERSION = 3
