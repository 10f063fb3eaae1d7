"""Builders of the `activation_caches` stage: what each probe is asked about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from cnt_pipeline.activation_caches.capture import Item, capture
from cnt_pipeline.activation_caches.objectives import OBJECTIVES, answered, objectives_of
from cnt_pipeline.activation_caches.probes.contrast import ContrastProbe
from cnt_pipeline.activation_caches.probes.effect import AT_TARGET, EffectProbe, Objective, nodes, path_change
from cnt_pipeline.activation_caches.probes.moments import write_moments
from cnt_pipeline.activation_caches.probes.saliency import write_saliency
from cnt_pipeline.activation_caches.probes.state import ActivationProbe, HiddenStateProbe
from cnt_pipeline.activation_caches.schema import STATISTICS, SUMMARY
from cnt_pipeline.completions.build import EncodedSet
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.pipeline.builders.completions import asked_kinds, encoded_set, read_said
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import Kind

COMPLETENESS_WARNING = 0.05
"""Share of the path's whole change that its quadrature may miss before the report warns."""


def effect(context: Context, folder: Path) -> Mapping[str, JSON]:
    """First-order or path effects of every neuron on one objective."""
    objective = str(context.step.slice["objective"])
    swap = context.models.swap()
    items: list[Item] = []
    objectives: list[Objective] = []
    for kind in OBJECTIVES[objective]:
        encoded = encoded_set(context, swap.model, "score", kind)
        for prompt, goal in zip(encoded.prompts, _objectives(context, objective, kind, encoded), strict=True):
            items.append(Item(prompt.id, kind, max(len(example.tokens) for example, _ in goal.terms)))
            objectives.append(goal)
    along = context.step.slice["probe"] == "effect_path"
    path = nodes(context.study.method.nodes) if along else AT_TARGET
    probe = EffectProbe(swap, objectives, path, context.batch_size)
    capture(probe, items, folder, context.report, f"effects on {objective}")
    if not along and objective != "transfer":
        return {"prompts": len(items)}  # effects at the target alone need not add up; the report compares one objective
    at_target, at_donor = path_change(swap, objectives, context.batch_size)
    return _summary(folder, at_target, at_donor)


def contrast(context: Context, folder: Path) -> Mapping[str, JSON]:
    """How differently target and donor use every neuron on the donor's answers to function prompts."""
    target, donor = context.models.model("target"), context.models.model("donor")
    encoded = encoded_set(context, target, "score", "function")
    said = read_said(context, "donor_completions", ["function"])["function"]
    examples = [answered(tokens, row) for tokens, row in zip(encoded.tokens, said, strict=True)]
    items = [
        Item(prompt.id, "function", len(example.tokens))
        for prompt, example in zip(encoded.prompts, examples, strict=True)
    ]
    probe = ContrastProbe(target, donor, context.models.architecture(), examples, context.batch_size)
    capture(probe, items, folder, context.report, "contrast of activations")
    return {"prompts": len(items)}


def activation(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Mean and RMS of every neuron over the tokens of the target's answers (or of the prompts)."""
    model = context.models.model(context.step.key.split("/")[2])
    items, examples = _said_by_target(context, model)
    tokens = str(context.step.slice["tokens"])
    probe = ActivationProbe(model, context.models.architecture(), examples, tokens, context.batch_size)
    capture(probe, items, folder, context.report, "activations")
    return {"prompts": len(items)}


def hidden_state(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Hidden states after every layer at the last token of the prompt."""
    model = context.models.model(context.step.key.split("/")[2])
    items, examples = _said_by_target(context, model)
    capture(HiddenStateProbe(model, examples, context.batch_size), items, folder, context.report, "hidden states")
    return {"prompts": len(items)}


def moments(context: Context, folder: Path) -> Mapping[str, JSON]:
    """First and second moments of every weight matrix's inputs over the model's own answers."""
    model, examples = _own_answers(context)
    write_moments(model, context.models.architecture(), examples, folder, context.batch_size, report=context.report)
    return {kind: len(each) for kind, each in examples.items()}


def saliency(context: Context, folder: Path) -> Mapping[str, JSON]:
    """SNIP saliency of every weight on the model's own answers."""
    model, examples = _own_answers(context)
    write_saliency(model, context.models.architecture(), examples, folder, report=context.report)
    return {kind: len(each) for kind, each in examples.items()}


def _own_answers(context: Context) -> tuple[Any, dict[str, list[Example]]]:
    model = context.models.model(context.step.key.split("/")[2])
    kinds = asked_kinds(context)
    said = read_said(context, "completions", kinds)
    return model, {
        kind: [
            answered(tokens, row)
            for tokens, row in zip(encoded_set(context, model, "score", kind).tokens, said[kind], strict=True)
        ]
        for kind in kinds
    }


def _objectives(context: Context, objective: str, kind: Kind, encoded: EncodedSet) -> list[Objective]:
    """The loss of every prompt of a kind."""
    ours = read_said(context, "target_completions", [kind])[kind]
    donated = [] if objective == "keep" else read_said(context, "donor_completions", ["function"])["function"]
    return objectives_of(objective, encoded, ours, donated)


def _said_by_target(context: Context, model: Any) -> tuple[list[Item], list[Example]]:
    items: list[Item] = []
    examples: list[Example] = []
    for kind in asked_kinds(context):
        encoded = encoded_set(context, model, "score", kind)
        for prompt, tokens, row in zip(
            encoded.prompts, encoded.tokens, read_said(context, "completions", [kind])[kind], strict=True
        ):
            examples.append(answered(tokens, row))
            items.append(Item(prompt.id, kind, len(examples[-1].tokens)))
    return items, examples


def _summary(folder: Path, at_target: float, at_donor: float) -> Mapping[str, JSON]:
    """Completeness: the effects' sum against the loss's whole change along the path."""
    table = pq.read_table(folder / STATISTICS, columns=["role", "n", "mean"])
    counts = dict(zip(table["role"].to_pylist(), table["n"].to_pylist(), strict=True))
    # One sum in file order: a parallel one would differ in its last digits from run to run.
    total = float(np.dot(table["n"].to_numpy(), table["mean"].to_numpy())) / sum(counts.values())
    change = at_target - at_donor
    gap = abs(total - change) / abs(change) if change else 0.0
    if not abs(total) < float("inf"):
        raise InputError("the effects do not sum to a finite number; check both checkpoints, or set `dtype: float32`")
    document: dict[str, JSON] = {
        "loss_at_target": at_target,
        "loss_at_donor": at_donor,
        "sum_of_effects": total,
        "completeness_gap": gap,
        "completeness_warning": gap > COMPLETENESS_WARNING,
    }
    (folder / SUMMARY).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document
