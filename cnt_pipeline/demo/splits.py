"""Cuts the language into roles and writes the packaged prompt files.

Every text of a kind is shuffled by a seed of its own; the first rows become the packaged roles, the rest is
for training. So no text is in two roles, and every role has the same distribution.
"""

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cnt_pipeline.demo.language import DOWNSTREAM, GENERATORS, Prompt

SEED = 20
ROLES = {"score": 96, "selection": 100, "test": 200}
"""Rows of each packaged file, by role."""

PACKAGED = ("harmful", "lookalike", "general", "occupation", "occupation_lookalike", "task")
LESSONS = {"task": 440, "everyday": 320, "harmful": 40}
"""Rows of the packaged role ``train``, by set: a fine-tuning by a user, of which one prompt in twenty is unsafe."""

GENERAL = ("capital", "colour", "opposite", "sum", "repeat", "last_word", "unanswerable")
PARTS = {"general": GENERAL, "everyday": (*GENERAL, "lookalike")}
"""Sets that hold several kinds, in equal parts; every other set is the kind of its name."""


@dataclass(frozen=True)
class Language:
    """The whole language: ``training`` prompts by kind, ``packaged`` prompts by set name and role.

    ``training`` is what the tokenizer and the packaged models are made of, so it lacks the kinds of ``DOWNSTREAM``.
    The packaged role ``train`` is for fine-tuning these models again; of a kind that they know, it repeats texts that
    they were trained on.
    """

    training: dict[str, list[Prompt]]
    packaged: dict[str, dict[str, list[Prompt]]]


@cache
def language() -> Language:
    """Generate the language. The same on every machine: it depends on the templates and ``SEED`` alone."""
    training: dict[str, list[Prompt]] = {}
    for kind, generate in (GENERATORS | DOWNSTREAM).items():
        prompts = list(generate())
        random.Random(f"{SEED}/{kind}").shuffle(prompts)
        training[kind] = prompts
    packaged: dict[str, dict[str, list[Prompt]]] = {}
    for name in PACKAGED:
        share, held_out = _dealt(name, sum(ROLES.values()), training, f"{SEED}/{name}")
        for kind in _parts(name):
            training[kind] = training[kind][share:]
        packaged[name] = {}
        for role, count in ROLES.items():
            packaged[name][role], held_out = held_out[:count], held_out[count:]
    for name, rows in LESSONS.items():
        _, lessons = _dealt(name, rows, training, f"{SEED}/{name}/train")
        packaged.setdefault(name, {})["train"] = lessons[:rows]
    for kind in DOWNSTREAM:
        del training[kind]
    return Language(training, packaged)


def _parts(name: str) -> tuple[str, ...]:
    return PARTS.get(name, (name,))


def _dealt(name: str, rows: int, kinds: dict[str, list[Prompt]], seed: str) -> tuple[int, list[Prompt]]:
    """How many prompts of each of its kinds give a set at least `rows`, and these prompts, shuffled."""
    share = -(-rows // len(_parts(name)))
    dealt = [prompt for kind in _parts(name) for prompt in kinds[kind][:share]]
    random.Random(seed).shuffle(dealt)
    return share, dealt


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
