"""For every key of the study: which steps it reaches directly. What lies below them reruns only if their
content changes."""

from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.schema import Study

SOURCE = {"file": "a.jsonl"}
BASE: dict[str, Any] = yaml.safe_load(
    """
study: table
purpose: stress_test
function: {name: refusal}
models: {target: {path: t}, donor: {path: d}}
prompts: {function: {file: f.jsonl}, lookalike: {file: l.jsonl}, utility: {file: u.jsonl}}
"""
)
SPEECH = ["completions/*", "transplants/selection", "evaluations/frontier"]
NUMERICS = [*SPEECH, "activation_caches/*"]
JUDGING = ["transplants/selection", "evaluations/frontier"]
GATES = ["evaluations/statistics", "evaluations/verdict", "reports/page"]
MATCHED_DONOR = [
    "models/pair", "models/matched", "completions/donor/*", "completions/control_*", "activation_caches/*",
    "neuron_rankings/delta_norm", "transplants/*", "evaluations/frontier", "evaluations/stability", "reports/page",
]  # fmt: skip
"""Whatever reads the donor, and the comparison that warns."""
OTHER_RANKING = [
    "activation_caches/effect_gradient/*", "neuron_rankings/gradient", *JUDGING, "evaluations/stability",
    "reports/page",
]  # fmt: skip
TABLE: dict[str, tuple[Any, list[str]]] = {
    "study": ("other", ["reports/page"]),
    "purpose": ("transplant", ["transplants/checkpoint", "reports/page"]),
    "donors": (["donor"], []),
    "match": ("activation", MATCHED_DONOR),
    "function.name": ("bias", [*JUDGING, "evaluations/scores", *GATES]),
    "function.direction": ("delete", [*JUDGING, *GATES]),
    "function.metric": ("pronoun_gap", [*JUDGING, "evaluations/scores", *GATES]),
    "models.target": ({"path": "elsewhere"}, ["models/target", "reports/page"]),
    "models.donor": ({"hub": "a/b", "revision": "0" * 40}, ["models/donor", "reports/page"]),
    "prompts.function": (SOURCE, ["prompt_sets/roles"]),
    "prompts.lookalike": (SOURCE, ["prompt_sets/roles"]),
    "prompts.utility": (SOURCE, ["prompt_sets/roles"]),
    "prompts.selection": ({"function": SOURCE}, ["prompt_sets/roles"]),
    "prompts.test": ({"utility": SOURCE}, ["prompt_sets/roles"]),
    "prompts.train": ({"function": SOURCE}, ["prompt_sets/roles"]),
    "prompts.split": ({"score": 0.5, "selection": 0.25, "test": 0.25}, ["prompt_sets/roles"]),
    "generation.max_new_tokens": (9, SPEECH),
    "generation.system": ("Be kind.", NUMERICS),
    "method.name": ("cnt_gradient", OTHER_RANKING),
    "method.effect": ("gradient", OTHER_RANKING),
    "method.nodes": (3, ["activation_caches/*"]),
    "method.lambda": ([0.0], ["neuron_rankings/path"]),
    "method.mu": (2.0, ["neuron_rankings/path", "evaluations/stability"]),
    "method.selection": ({"selection": "top_k", "count": 5}, ["transplants/selection", "reports/page"]),
    "method.count": (5, []),
    "method.fraction": (0.1, []),
    "method.eta": ([1, 2], ["transplants/selection"]),
    "method.aim": (0.9, ["transplants/selection", "reports/page"]),
    "method.units": (["head"], ["transplants/selection"]),
    "method.learn.steps": (5, []),
    "method.learn.rate": (0.5, []),
    "method.learn.prompts": (5, []),
    "method.learn.others": (4, []),
    "method.learn.keep": (2.0, []),
    "method.learn.misfire": (0.5, []),
    "method.learn.tokens": (3, []),
    "method.learn.objective": ("preference", []),
    "method.learn.candidates": (0.5, []),
    "method.learn.start": (1.0, []),
    "method.learn.price": (1.0, []),
    "method.learn.limit": (2.0, []),
    "method.learn.budget": (0.1, []),
    "method.learn.cuts": (2, []),
    "method.learn.importance": ("gradient", []),
    "method.families": (["gate"], ["transplants/selection", "evaluations/frontier"]),
    "probes": (["activation"], ["activation_caches/activation/*", "reports/page"]),
    "probe_tokens": ("prompt", []),
    "controls.random_seeds": (2, ["transplants/controls"]),
    "frontier.effects": (
        ["gradient"],
        ["activation_caches/effect_gradient/*", "neuron_rankings/gradient", "evaluations/frontier", "reports/page"],
    ),
    "frontier.budgets": ([0.5], ["evaluations/frontier"]),
    "frontier.closer": (1, ["evaluations/frontier"]),
    "frontier.eta": ([2.0], ["evaluations/frontier"]),
    "frontier.lambda": ([0.0], ["evaluations/frontier"]),
    "frontier.random_seeds": (2, ["evaluations/frontier"]),
    "frontier.resamples": (5, ["evaluations/stability"]),
    "compare.methods": (
        ["random"], ["transplants/compared_random", "completions/compared_random/*", "*/leaderboard"],
    ),
    "compare.dimensions": ([{"name": "weapons", "prompts": SOURCE}], []),
    "compare.task": ("general", []),
    "judges": (
        [{"name": "phrases", "kind": "phrases"}],
        ["evaluations/judged_phrases", "evaluations/judges", "reports/page"],
    ),
    "evaluate": (["perplexity"], ["evaluations/scores"]),
    "suites": (
        ["jailbreak"],
        ["prompt_sets/suite_jailbreak", "completions/*_suite_jailbreak/test", "evaluations/suite_jailbreak",
         "reports/page"],
    ),
    "accept.recovery": (0.5, ["evaluations/verdict", "reports/page"]),
    "accept.over_refusal": (0.5, ["transplants/selection", *GATES]),
    "accept.utility_loss": (0.5, ["transplants/selection", *GATES]),
    "accept.coherence_loss": (0.5, ["transplants/selection", *GATES]),
    "accept.donor_margin": (0.5, ["transplants/selection", "evaluations/verdict", "reports/page"]),
    "seed": (7, ["prompt_sets/roles", "transplants/controls", "evaluations/*"]),
    "dtype": ("bfloat16", NUMERICS),
    "run.batch_size": (3, []),
    "run.threads": (3, []),
    "run.device": ("cuda", []),
    "run.checkpointing": (True, []),
    "run.donor_memory": ("lazy", []),
}  # fmt: skip


def keys(model: type[BaseModel] = Study, prefix: str = "") -> Iterator[str]:
    """Every key of the study, down to sources and blocks that are replaced as a whole."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and not key.startswith(("models.", "prompts.")):
            yield from keys(inner, f"{key}.")
        else:
            yield key


def with_key(key: str, value: Any) -> Study:
    document = yaml.safe_load(yaml.safe_dump(BASE))
    *blocks, last = key.split(".")
    place = document
    for block in blocks:
        place = place.setdefault(block, {})
    if isinstance(value, dict) and last in value:
        place.update(value)
    else:
        place[last] = value
    return Study.model_validate(document)


def identity(step: Step) -> tuple[object, ...]:
    return step.slice, step.inputs, step.external, step.version


def test_the_table_covers_every_key_of_the_study() -> None:
    assert set(TABLE) == set(keys())


@pytest.mark.parametrize("key", TABLE)
def test_a_key_reaches_these_steps_and_no_other(key: str) -> None:
    value, patterns = TABLE[key]
    before = {step.key: identity(step) for step in steps_of(Study.model_validate(BASE))}
    after = {step.key: identity(step) for step in steps_of(with_key(key, value))}
    changed = {name for name in after if before.get(name) != after[name]}
    expected = {name for name in after if any(fnmatch(name, pattern) for pattern in patterns)}
    assert changed == expected
