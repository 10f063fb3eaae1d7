"""`cnt check`: what can be known of a study without computing, from headers, prompt files and the method table."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.commands.console import err, out, table
from cnt_pipeline.evaluations.suite_table import resolve_suites
from cnt_pipeline.measures.metrics import refuse_unjudged
from cnt_pipeline.models.ancestry import ancestry, ancestry_warning
from cnt_pipeline.models.compare import compare, estimate, non_neuron_difference
from cnt_pipeline.models.gguf import read_header, require_gguf
from cnt_pipeline.models.sources import resolve_gguf
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.places import folder_of, is_derived
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.build import materialize
from cnt_pipeline.prompt_sets.dimensions import materialize_dimension
from cnt_pipeline.prompt_sets.schema import Prompt, Role
from cnt_pipeline.prompt_sets.suites import gather
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import KINDS, SPLITS, TRAIN, AdapterSource, Kind, Lesson, LoraSft, Study
from cnt_pipeline.transplants.methods import resolve

FEW_PROMPTS = 30
"""Fewer prompts than this in a role give intervals too wide to judge by."""


def check_study(path: Path) -> None:
    """Print what is known of the study in `path`.

    Raises:
        CntError: the study cannot run: its file, its models or its prompts are at fault.
    """
    study = load_study(path)
    steps = steps_of(study)
    method = resolve(study.method)
    console = out()
    artifacts = _made(study)
    refuse_impossible(study, artifacts)
    console.print(f"{study.study}: {path} is well formed, {len(steps)} steps", markup=False, soft_wrap=True)
    warnings = _show_models(study, artifacts)
    row = method.row
    console.print(
        f"method {row.name}: scores by effect_{method.effect}, selects by {method.selection}, edits by {row.edit} "
        f"(grade {row.grade}, {row.source})",
        markup=False,
        soft_wrap=True,
    )
    taught = study.models.taught_kinds()
    sets = materialize(study.prompts, study.seed, taught)
    for split in SPLITS:
        refuse_unjudged(study.function, {kind: sets[split, kind] for kind in KINDS})
    splits = (*SPLITS, TRAIN) if taught else SPLITS
    rows = [(kind, *(str(len(sets.get((split, kind), ())) or "") for split in splits)) for kind in KINDS]
    console.print(table(("prompts", *splits), rows, right=splits))
    console.print("no prompt serves two roles")
    _show_dimensions(study, sets)
    _show_suites(study, sets)
    for judge in study.judges:
        about = judge.template or judge.function or ", ".join(f"{a}: {b}" for a, b in judge.labels.items())
        _say(f"judge {judge.name}: {judge.kind}" + (f", {about}" if about else ""))
    _show_needs(study, artifacts, {kind: len(sets["score", kind]) for kind in KINDS})
    judged = {role: rows for role, rows in sets.items() if role[0] != TRAIN}
    small = [f"{split}.{kind} ({len(rows)})" for (split, kind), rows in judged.items() if len(rows) < FEW_PROMPTS]
    if small:
        warnings.append(f"fewer than {FEW_PROMPTS} prompts in {', '.join(small)}: intervals will be wide")
    for warning in warnings:
        err().print("[yellow]warning[/]  ", end="")
        err().print(warning, markup=False, soft_wrap=True)
    console.print("whether the donor leads the target enough is measured by the run itself", style="dim")


def _show_dimensions(study: Study, sets: Mapping[Role, list[Prompt]]) -> None:
    """Print how many prompts the study's safety dimensions have."""
    taught = {prompt.id for (split, _), rows in sets.items() if split == TRAIN for prompt in rows}
    earlier: dict[str, set[str]] = {}
    for dimension in study.compare.dimensions:
        parts = materialize_dimension(dimension, study.prompts.split, study.seed, taught, earlier)
        refuse_unjudged(study.function, {"function": parts["test"]})
        earlier[dimension.name] = {prompt.id for rows in parts.values() for prompt in rows}
        counts = ", ".join(f"{len(rows)} {split}" for split, rows in parts.items())
        _say(f"dimension {dimension.name}: {counts}")


def _show_suites(study: Study, sets: Mapping[Role, list[Prompt]]) -> None:
    """Print how many prompts the parts of the study's suites have; tasks of lm-evaluation-harness read their own."""
    read = {prompt.id for (split, _), rows in sets.items() if split != "test" for prompt in rows}
    for suite in resolve_suites(study):
        for part in suite.asked:
            own = sets["test", part.kind] if part.kind else []
            gathered = gather(
                part.source, own, part.adapter, part.part.template, part.take, study.seed, read,
                f"{study.file}:suites.{suite.key}.{part.name}",
            )  # fmt: skip
            left = f", {gathered.left_out} left out that the study reads elsewhere" if gathered.left_out else ""
            _say(f"suite {suite.key}, {part.name}: {len(gathered.items)} prompts{left}")
        for part in suite.tasks:
            _say(f"suite {suite.key}, {part.name}: {part.part.task} of lm-evaluation-harness")


def _made(study: Study) -> dict[str, Artifact]:
    """Derived models that an earlier run left in the project's store, by step."""
    if not any(map(is_derived, study.models.named().values())):
        return {}
    planned = plan(study, Store(store_url(None)))
    return {each.step.key: each.artifact for each in planned if each.artifact is not None}


def _show_models(study: Study, artifacts: Mapping[str, Artifact]) -> list[str]:
    """Print what is known of the models; returns warnings. A pair that is yet to be made is compared by the run."""
    for name, model in study.models.named().items():
        if isinstance(model, LoraSft):
            taught = ", ".join(f"{'+'.join(lesson.prompts)} ({_answers(lesson)})" for lesson in model.lessons)
            _say(f"{name}: {model.base} fine-tuned, {model.steps} steps of {model.batch_size} on {taught}")
        elif isinstance(model, AdapterSource):
            _say(f"{name}: {model.base} with the adapter {model.adapter.name}, merged to full weights")
        elif model.is_gguf:
            file = resolve_gguf(model)
            require_gguf(file)
            header = read_header(file)
            _say(f"{name}: {file.name}, {header.parameters:,} parameters of {header.architecture}, into float32")
    target, donor = (folder_of(study, name, artifacts) for name in ("target", "donor"))
    if target is None or donor is None:
        waiting = " and ".join(name for name, place in (("target", target), ("donor", donor)) if place is None)
        _say(f"  `cnt run` makes the {waiting} and then checks whether the two can exchange neurons")
        return []
    comparison = compare(target, donor)
    _say(comparison.report())
    others = non_neuron_difference(read_index(target), read_index(donor))
    left = f"largest difference {others.largest:.2%}" if others.relative else "none"
    _say(f"  tensors that hold no neuron and stay the target's: {left}")
    architecture = comparison.architecture
    looked_at = sorted({0, architecture.layers // 2, architecture.layers - 1})
    kin = ancestry(read_index(target), read_index(donor), architecture, looked_at)
    _say(
        f"  neurons of equal index: median cosine {kin.median_cosine:.2f} "
        f"({len(looked_at)} of {architecture.layers} layers looked at)"
    )
    apart = ancestry_warning(kin, study.match)
    return [*others.warnings, *([apart] if apart else [])]


def _answers(lesson: Lesson) -> str:
    if isinstance(lesson.answers, str):
        return f"{lesson.answers} answers"
    return f"{len(lesson.answers)} given answer{'s' if len(lesson.answers) > 1 else ''}"


def _show_needs(study: Study, artifacts: Mapping[str, Artifact], counts: Mapping[Kind, int]) -> None:
    """Print disk and memory, where a folder of the target or of what it is made from lies on this machine."""
    places = (folder_of(study, name, artifacts) for name in study.models.ancestry("target"))
    target = next((place for place in places if place is not None), None)
    if target is None:
        _say("disk and memory are known when the target is dequantised")
        return
    needs = estimate(target, folder_of(study, "donor", artifacts) or target)
    # An effect is a float32 per neuron: of function prompts, of look-alikes twice (misfires, damage), of general ones.
    caches = 4 * needs.neurons * (counts["function"] + 2 * counts["lookalike"] + counts["utility"])
    _say(
        f"{needs.parameters:,} parameters, {needs.neuron_parameters:,} of them in {needs.neurons:,} neurons; "
        f"needs about {size_text(needs.disk_bytes + caches)} of disk ({size_text(needs.disk_bytes)} checkpoint, at "
        f"most {size_text(caches)} caches) and {size_text(needs.memory_bytes)} of memory in float32",
    )


def _say(text: str) -> None:
    out().print(text, markup=False, soft_wrap=True)
