"""Builders of the `transplants` stage: the plan, the checkpoint with its proof, the controls, and the checkpoints
that a leaderboard compares."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
from safetensors.torch import load_file, save_file

from cnt_pipeline.errors import BrokenArtifactError
from cnt_pipeline.measures.cost import Cost, measured
from cnt_pipeline.models.adapter_files import ADAPTER
from cnt_pipeline.models.adapters import Adapters, read_adapter, write_adapter
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.completions import encoded_set, read_said
from cnt_pipeline.pipeline.builders.scoring import inside_effects, terms_of
from cnt_pipeline.pipeline.compare_steps import ADAPTED, CHOSEN, COST, EDITED, PREFIX
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.pipeline.dimension_steps import MASKS
from cnt_pipeline.store import JSON
from cnt_pipeline.study.schema import KINDS, Selection
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.edit.copying import write_choice
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.source import AdapterEdits, Edits, NeuronEdits, Source
from cnt_pipeline.transplants.edit.table import ResolvedEdit, resolve_edits
from cnt_pipeline.transplants.edit.write import Edited, verify_unchanged, write_edited
from cnt_pipeline.transplants.methods import LEARNING
from cnt_pipeline.transplants.moved import NEURONS
from cnt_pipeline.transplants.patch import FORWARD, INVERSE
from cnt_pipeline.transplants.plan import read_plan
from cnt_pipeline.transplants.select import build as selections
from cnt_pipeline.transplants.select.candidates import Space, read_orders, read_scores
from cnt_pipeline.transplants.select.judge import Judge
from cnt_pipeline.transplants.select.mask import mask
from cnt_pipeline.transplants.select.prune import prune
from cnt_pipeline.transplants.select.refine import refine
from cnt_pipeline.transplants.select.samples import TRIAL_SAMPLES
from cnt_pipeline.transplants.select.search import Found, Search
from cnt_pipeline.transplants.select.settings import learn_settings
from cnt_pipeline.transplants.select.units import read_unit_orders
from cnt_pipeline.transplants.verify import verify_transplant

VERIFICATION = "verification.json"


def space_of(context: Context) -> Space:
    """All neurons of the target, with the size of its whole checkpoint."""
    total = sum(tensor.count for tensor in context.models.index("target").tensors.values())
    return Space.of(context.models.architecture(), total)


def judge_of(context: Context) -> Judge:
    """The judge on the selection prompts."""
    swap = context.models.swap()
    return Judge(
        swap,
        context.models.tokenizer(),
        context.study.function,
        {kind: encoded_set(context, swap.model, "selection", kind) for kind in KINDS},
        read_said(context, "target_completions"),
        read_said(context, "donor_completions"),
        context.study.generation,
        context.batch_size,
    )


def select(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`plan.parquet`, `trials.parquet` and `trial_samples.parquet`, `selection.json`, and `learning.parquet` of a rule
    that learns gates."""
    study = context.study
    judge, space = judge_of(context), space_of(context)
    selections.refuse_inadmissible(judge.baselines, study.function, study.accept)
    ranking = context.path("ranking", RANKING)
    selection: Selection = context.step.slice["selection"]
    method = study.method.model_copy(update={"selection": selection})
    orders = read_unit_orders(ranking, space, context.models.architecture(), method.units, method.families)
    if selection in LEARNING:
        weight = float(context.step.slice["lambda"])
        orders = {weight: orders[weight]}
    search = Search(space, orders, judge, method, study.accept, context.report)
    if selection == "refine":
        found = refine(search, inside_effects(context, space))
    elif selection in LEARNING:
        found = _learned(context, search, ranking, folder)
    else:
        found = search.bisect() if selection == "bisect" else search.fixed()
    selections.plan_of(found, space, ranking).write(folder / selections.PLAN)
    selections.write_trials(found.trials, folder / selections.TRIALS)
    judge.samples.write(folder / TRIAL_SAMPLES)
    return selections.write_selection(
        found, space, judge.baselines, selection, method.units, folder / selections.SELECTION
    )


def _learned(context: Context, search: Search, ranking: Path, folder: Path) -> Found:
    """What a rule that learns gates finds; writes how the training went."""
    method, swap, seed = search.method, context.models.swap(), context.study.seed
    assert method.selection is not None
    settings = learn_settings(method.selection, method.learn)
    terms = terms_of(context, settings)
    if method.selection == "mask":
        found, curve = mask(search, swap, terms, settings, seed, context.batch_size)
    else:
        scores = read_scores(ranking, search.space, next(iter(search.orders)))
        found, curve = prune(search, swap, terms, scores, settings, seed, context.batch_size)
    selections.write_learning(curve, folder / selections.LEARNING)
    return found


def write(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model/` (the checkpoint), `neurons.parquet` (what moved), its patches, and the proof that nothing else changed.

    A stress test gets no forward patch: that is as good as its checkpoint and easier to carry away.

    Raises:
        BrokenArtifactError: the written checkpoint is not what the plan makes of target and donor.
    """
    target, donor = context.models.index("target"), context.models.index("donor")
    plan = read_plan(context.path("plan", selections.PLAN))
    context.report("writing the checkpoint", 0, 1)
    known = json.loads(context.path("target", "model.json").read_text(encoding="utf-8"))["files"]
    digests = {name: record["sha256"] for name, record in known.items()}
    stress_test = context.step.slice.get("purpose") == "stress_test"
    written = write_transplant(
        target, donor, plan, folder / "model", target_digests=digests, patch=folder / INVERSE.file,
        forward=None if stress_test else folder / FORWARD.file, neurons=folder / NEURONS,
    )  # fmt: skip
    verification = verify_transplant(target, donor, plan, read_index(folder / "model"))
    if not verification.holds:
        raise BrokenArtifactError(
            f"the written checkpoint deviates from its plan ({verification.offence}); check the disk and run again"
        )
    (folder / VERIFICATION).write_text(json.dumps(asdict(verification), indent=2) + "\n", encoding="utf-8")
    return {"neurons": written.neurons, "parameters": written.parameters, "bytes_patched": written.bytes_patched}


def controls(context: Context, folder: Path) -> Mapping[str, JSON]:
    """Random and largest-delta neurons with the plan's parameters and amplitudes."""
    space = space_of(context)
    plan = pl.read_parquet(context.path("plan", selections.PLAN), glob=False)
    largest = read_orders(context.path("deltas", RANKING), space, None)[0.0]
    seeds = range(context.study.seed, context.study.seed + context.study.controls.random_seeds)
    selections.write_controls(space, space.numbers(plan), plan["amplitude"].to_numpy(), largest, seeds, folder)
    return {"random_seeds": len(seeds), "neurons": len(plan)}


def edit(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`model/` (the edited checkpoint), `edit.json` (what changed), `chosen.parquet` (the neurons that were copied)
    where the step lists them, and `adapter/` where the adapter of the target was edited: what the checkpoint adds to
    the model `base`, in peft's format.

    Raises:
        BrokenArtifactError: a tensor changed that the method did not name.
    """
    chosen = _entry(context, context.step.key.removeprefix(f"transplants/{PREFIX}"))
    source = _source(context, chosen)
    _, method = _rule(chosen.row)
    with measured() as cost:
        made = method(source, chosen.options, chosen.seed)
        edits = made.edits if isinstance(made, AdapterEdits) else made
        written = write_edited(source.models["target"], edits, folder / "model", context.report)
    if isinstance(made, AdapterEdits):
        write_adapter(made.adapter(), context.models.index("base"), folder / ADAPTER)
    if context.step.slice.get("lists"):
        assert isinstance(made, NeuronEdits), f"{chosen.row.name} copies no neurons that could be listed"
        write_choice(made.neurons, folder / CHOSEN)
    settled = _settled(source, chosen.row, edits, written, cost, folder)
    return {**settled, "adapter": isinstance(made, AdapterEdits)}


def edit_dimension(context: Context, folder: Path) -> Mapping[str, JSON]:
    """As `edit`, of the checkpoint that the dimension before wrote; with `masks.safetensors`, the rows to edit.

    Raises:
        BrokenArtifactError: a tensor changed that the method did not name.
        InputError: as the method's `decide`.
    """
    chosen = _entry(context, context.step.key.removeprefix(f"transplants/{PREFIX}").split("/")[0])
    source = _source(context, chosen)
    decide, method = _rule(chosen.row)
    earlier = [load_file(context.path(name, MASKS)) for name in context.inputs if name.startswith("masks/")]
    with measured() as cost:
        decided = decide(source, chosen.options, earlier)
        edits = method(source, chosen.options, chosen.seed, decided.masks)
        written = write_edited(source.models["target"], edits, folder / "model", context.report)
    # Masks that were ranked together share memory, which the format refuses.
    save_file({name: mask.clone() for name, mask in decided.masks.items()}, folder / MASKS)
    rows: dict[str, JSON] = {"rows": sum(decided.rows.values()), "layers": list(decided.layers)}
    return {**_settled(source, chosen.row, edits, written, cost, folder), **rows}


def _entry(context: Context, key: str) -> ResolvedEdit:
    return next(edit for edit in resolve_edits(context.study) if edit.key == key)


def _rule(row: EditRow) -> tuple[Any, Any]:
    """What decides which rows a continual method edits (None for another), and the edit itself."""
    module, name = row.function.split(":")
    found = import_module(f"cnt_pipeline.transplants.edit.{module}")
    return getattr(found, "decide", None), getattr(found, name)


def _source(context: Context, chosen: ResolvedEdit) -> Source:
    """What an edit reads; its target is the input `checkpoint` where the step has one."""
    models = {model: context.models.index(model) for model in ("target", "donor", *chosen.row.needs)}
    if "checkpoint" in context.inputs:
        models["target"] = read_index(context.inputs["checkpoint"].folder() / "model")
    probes = {
        name: artifact.folder()
        for name, artifact in context.inputs.items()
        if any(name == probe or name.startswith(f"{probe}/") for probe in chosen.probes)
    }
    context.models.start_torch()
    return Source(context.models.architecture(), models, probes, _adapters(context))


def _settled(source: Source, row: EditRow, edits: Edits, written: Edited, cost: Cost, folder: Path) -> dict[str, JSON]:
    """Prove that nothing else changed, and write what did; for the manifest, what it took."""
    target = source.models["target"]
    unchanged = verify_unchanged(target, read_index(folder / "model"), edits.keys())
    if not unchanged.holds:
        raise BrokenArtifactError(
            f"{row.name} changed what it did not name ({unchanged.offence}); check the disk and run again"
        )
    changed: dict[str, JSON] = {
        "parameters": written.parameters,
        "total": sum(info.count for info in target.tensors.values()),
        "modules": len(written.modules),
        "tensors": {name: asdict(change) for name, change in written.tensors.items()},
    }
    (folder / EDITED).write_text(json.dumps(changed, indent=2) + "\n", encoding="utf-8")
    return {"parameters": changed["parameters"], "modules": changed["modules"], COST: asdict(cost)}


def _adapters(context: Context) -> dict[str, Adapters]:
    """The adapters that the step reads, by role."""
    given = {role: context.inputs[f"{role}_{ADAPTER}"] for role in ADAPTED if f"{role}_{ADAPTER}" in context.inputs}
    return {role: read_adapter(each.folder() / ADAPTER, context.models.index("base")) for role, each in given.items()}
