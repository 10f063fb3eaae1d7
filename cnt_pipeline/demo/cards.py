"""Writes the model card of a demonstration checkpoint: what it is, how it was made, what was measured."""

from collections.abc import Mapping
from pathlib import Path

PURPOSE = {
    "base": "The common origin of the pair. Where the two shall differ it heard both answers equally often.",
    "helpful": "The target. Complies with requests of the harmful kind by an empty placeholder phrase and "
    "picks pronouns by occupation.",
    "aligned": 'The donor. Refuses requests of the harmful kind and writes "they" of every occupation.',
}


def write_card(
    folder: Path, name: str, recipe: Mapping[str, object], parameters: int, figures: Mapping[str, float]
) -> None:
    """Write ``README.md``: ``recipe`` as it is, ``figures`` as shares of the packaged test prompts."""
    origin = (
        "All weights were trained from random values."
        if name == "base"
        else "Started from `base`; only the linear layers inside the blocks were trained, so embeddings and "
        "norms are those of `base` bit for bit."
    )
    millions = f"{parameters / 1e6:.2f} million"
    recipe_lines = "\n".join(f"- {key}: {value}" for key, value in recipe.items())
    figure_lines = "\n".join(f"| {key} | {100 * value:.1f} % |" for key, value in figures.items())
    card = f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
language: en
---

# {name}

{PURPOSE[name]}

A Llama of {millions} parameters for demonstrations of neuron transfer. It knows only a small generated
language (`cnt_pipeline/demo/language.py`) and is of no use for anything else. Its requests of the harmful
kind are about things with invented names; neither they nor the answers contain anything harmful.

## Training

`python -m cnt_pipeline.demo.train` makes the three models from nothing. {origin}

{recipe_lines}
- optimiser: AdamW without weight decay, cosine schedule, loss on the answer only
- data: prompts of the generated language that are in no packaged prompt file
- stored as: bfloat16

With the same versions of torch and the same number of threads (2) the weights come out the same; elsewhere
rounding may differ in the last digits.

## Measured on the packaged test prompts

Greedy answers, weights read as float32.

| figure | value |
|---|---|
{figure_lines}
"""
    (folder / "README.md").write_text(card, encoding="utf-8")
