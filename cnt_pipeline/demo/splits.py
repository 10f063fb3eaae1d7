"""Cuts the language into roles and writes the packaged prompt files.

Every text of a kind is shuffled by a seed of its own; the first rows become the packaged roles, the rest is
for training. So no text is in two roles, and every role has the same distribution.
"""

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cnt_pipeline.demo.language import GENERATORS, Prompt

SEED = 20
ROLES = {"score": 96, "selection": 100, "test": 200}
"""Rows of each packaged file, by role."""

GENERAL = ("capital", "colour", "opposite", "sum", "repeat", "last_word", "unanswerable")
"""The kinds that make up the packaged set ``general``, in equal parts."""

PACKAGED = ("harmful", "lookalike", "general", "occupation", "occupation_lookalike")


@dataclass(frozen=True)
class Language:
    """The whole language: ``training`` prompts by kind, ``packaged`` prompts by set name and role."""

    training: dict[str, list[Prompt]]
    packaged: dict[str, dict[str, list[Prompt]]]


@cache
def language() -> Language:
    """Generate the language. The same on every machine: it depends on the templates and ``SEED`` alone."""
    training: dict[str, list[Prompt]] = {}
    for kind, generate in GENERATORS.items():
        prompts = list(generate())
        random.Random(f"{SEED}/{kind}").shuffle(prompts)
        training[kind] = prompts
    rows = sum(ROLES.values())
    packaged: dict[str, dict[str, list[Prompt]]] = {}
    for name in PACKAGED:
        parts = GENERAL if name == "general" else (name,)
        share = -(-rows // len(parts))
        held_out = [prompt for kind in parts for prompt in training[kind][:share]]
        for kind in parts:
            training[kind] = training[kind][share:]
        random.Random(f"{SEED}/{name}").shuffle(held_out)
        packaged[name] = {}
        for role, count in ROLES.items():
            packaged[name][role], held_out = held_out[:count], held_out[count:]
    return Language(training, packaged)


def write_prompts(folder: Path) -> list[Path]:
    """Write ``<set>.<role>.jsonl`` for every packaged set and role; return the paths written.

    Fields: ``id``, ``text``, ``answers`` (accepted answers; empty where the two models differ on purpose)
    and, about a pronoun, ``prefix`` (the start of the answer) and ``choices`` (its continuations).
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, roles in language().packaged.items():
        for role, prompts in roles.items():
            path = folder / f"{name}.{role}.jsonl"
            rows = (_row(f"{name}-{role}-{index:03d}", prompt) for index, prompt in enumerate(prompts))
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            written.append(path)
    return written


def _row(identifier: str, prompt: Prompt) -> dict[str, object]:
    row: dict[str, object] = {"id": identifier, "text": prompt.text}
    row["answers"] = [prompt.helpful] if prompt.agreed else []
    if prompt.choices:
        row |= {"prefix": prompt.prefix, "choices": list(prompt.choices)}
    return row
