"""Builders of the `completions` stage: the two models, written checkpoints, controls through the gates, and the target
with patched activations."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.completions.build import (
    EncodedSet,
    agree_with_target,
    compare_with_itself,
    complete,
    context_length,
    encode_set,
    measure_distance,
)
from cnt_pipeline.completions.schema import Completion, file_name, read_completions, write_completions
from cnt_pipeline.measures.metrics import refuse_unjudged
from cnt_pipeline.models.activation_patching import patched
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.pipeline.compare_steps import CHOSEN
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.prompt_sets.schema import file_name as prompt_file
from cnt_pipeline.prompt_sets.schema import read_prompts
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS, Kind, Split
from cnt_pipeline.transplants.edit.copying import read_choice
from cnt_pipeline.transplants.select.candidates import gates_of

Variant = AbstractContextManager[None]


def of_target(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What the target says, the first to be asked."""
    split: Split = context.step.key.split("/")[2]  # type: ignore[assignment]
    prompts = {kind: read_prompts(context.path("prompts", prompt_file(split, kind))) for kind in asked_kinds(context)}
    refuse_unjudged(context.study.function, prompts)
    return _ask(context, folder, context.models.model("target"), [nullcontext()])


def of_donor(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What the donor says, compared with the target."""
    return _ask(context, folder, context.models.model("donor"), [nullcontext()])


def of_transplant(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What the written checkpoint says, loaded from its files as a user would."""
    checkpoint = context.inputs["checkpoint"].folder() / "model"
    return _ask(context, folder, context.models.guest(checkpoint), [nullcontext()])


def of_control(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What the target says with a control's neurons swapped; a variant per draw."""
    control = context.step.key.split("/")[1].removeprefix("control_")
    neurons = pl.read_parquet(context.path("controls", f"{control}.parquet"), glob=False)
    swap = context.models.swap()
    variants = [
        swap.folded(gates_of(part, swap.architecture, device_of(swap.model)))
        for _, part in neurons.group_by("variant", maintain_order=True)
    ]
    return _ask(context, folder, swap.model, variants)


def of_patched(context: Context, folder: Path) -> Mapping[str, JSON]:
    """What the target says with the activations that an edit's neurons have in the donor on the same tokens."""
    target, donor = context.models.model("target"), context.models.model("donor")
    neurons = read_choice(context.path("edit", CHOSEN))
    return _ask(context, folder, target, [patched(target, donor, context.models.architecture(), neurons)])


def asked_kinds(context: Context) -> Sequence[Kind]:
    """Kinds of prompts that a step is about: all, except for a safety dimension."""
    kinds: Sequence[Kind] = context.step.slice.get("kinds", KINDS)
    return kinds


def encoded_set(context: Context, model: Any, split: Split, kind: Kind, name: str = "prompts") -> EncodedSet:
    """The prompts of one role, from the input of that name, in the models' tokens."""
    prompts = read_prompts(context.path(name, prompt_file(split, kind)))
    return encode_set(context.models.tokenizer(), prompts, context.study.generation, context_length(model))


def read_said(context: Context, name: str, kinds: Iterable[Kind] = KINDS) -> dict[Kind, list[Completion]]:
    """The completions of an input, by kind."""
    return {kind: read_completions(context.path(name, file_name(kind))) for kind in kinds}


def as_variants(runs: Sequence[Mapping[Kind, Sequence[Completion]]]) -> dict[Kind, list[Completion]]:
    """Completions of several draws as one subject's, numbered in order."""
    return {
        kind: [replace(row, variant=number) for number, run in enumerate(runs) for row in run[kind]] for kind in runs[0]
    }


def _ask(context: Context, folder: Path, model: Any, variants: Sequence[Variant]) -> Mapping[str, JSON]:
    _, subject, split = context.step.key.split("/")
    counts: dict[str, JSON] = {}
    kinds = asked_kinds(context)
    sets = {kind: encoded_set(context, model, split, kind) for kind in kinds}  # type: ignore[arg-type]
    rows: dict[Kind, list[Completion]] = {kind: [] for kind in kinds}
    target = _measured_against(context, model)
    for number, variant in enumerate(variants):
        with variant:
            for kind, encoded in sets.items():
                said = complete(
                    model,
                    context.models.tokenizer(),
                    encoded,
                    context.study.generation,
                    context.batch_size,
                    variant=number,
                    multiple_choice=split == "score" or kind != "utility",  # scoring reads what the target says
                    report=context.report,
                    what=f"{subject} answers {kind} prompts",
                )
                rows[kind] += _compared(context, model, target, encoded, said) if kind == "utility" else said
    for kind, said in rows.items():
        write_completions(said, folder / file_name(kind))
        counts[kind] = len(said)
    return {"rows": counts}


def _measured_against(context: Context, model: Any) -> Any:
    """The target, where the step's metrics ask how far from it the model is; a copy where `model` is that."""
    if "target_completions" not in context.inputs or not context.step.slice.get("target_kl"):
        return None
    target = context.models.model("target")
    return context.models.load(context.models.folder("target")) if target is model else target


def _compared(
    context: Context, model: Any, target: Any, encoded: EncodedSet, said: list[Completion]
) -> list[Completion]:
    """Answers to utility prompts, compared with the target's."""
    if "target_completions" not in context.inputs:
        return compare_with_itself(said)
    theirs = read_said(context, "target_completions", ["utility"])["utility"]
    said = agree_with_target(model, encoded, said, theirs, context.batch_size)
    return said if target is None else measure_distance(model, target, encoded, said, theirs, context.batch_size)
