"""`cnt check`: what can be known of a study without computing, from headers, prompt files and the method table."""

from pathlib import Path

from cnt_pipeline.commands.console import err, out, size_text, table
from cnt_pipeline.measures.metrics import refuse_unjudged
from cnt_pipeline.models.compare import compare, estimate, non_neuron_difference
from cnt_pipeline.models.load import resolve_model
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.build import materialize
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import KINDS, SPLITS
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
    refuse_impossible(study)
    target, donor = resolve_model(study.models.target), resolve_model(study.models.donor)
    comparison = compare(target, donor)
    others = non_neuron_difference(read_index(target), read_index(donor))
    console.print(f"{study.study}: {path} is well formed, {len(steps)} steps", markup=False, soft_wrap=True)
    console.print(comparison.report(), markup=False, soft_wrap=True)
    left = f"largest difference {others.largest:.2%}" if others.relative else "none"
    console.print(f"  tensors that hold no neuron and stay the target's: {left}", markup=False, soft_wrap=True)
    row = method.row
    console.print(
        f"method {row.name}: scores by effect_{method.effect}, selects by {method.selection}, edits by {row.edit} "
        f"(grade {row.grade}, {row.source})",
        markup=False,
        soft_wrap=True,
    )
    sets = materialize(study.prompts, study.seed)
    for split in SPLITS:
        refuse_unjudged(study.function, {kind: sets[split, kind] for kind in KINDS})
    rows = [(kind, *(str(len(sets[split, kind])) for split in SPLITS)) for kind in KINDS]
    console.print(table(("prompts", *SPLITS), rows, right=SPLITS))
    console.print("no prompt serves two roles")
    counts = {kind: len(sets["score", kind]) for kind in KINDS}
    needs = estimate(target, donor)
    # An effect is a float32 per neuron: of function prompts, of look-alikes twice (misfires, damage), of general ones.
    caches = 4 * needs.neurons * (counts["function"] + 2 * counts["lookalike"] + counts["utility"])
    console.print(
        f"{needs.parameters:,} parameters, {needs.neuron_parameters:,} of them in {needs.neurons:,} neurons; "
        f"needs about {size_text(needs.disk_bytes + caches)} of disk ({size_text(needs.disk_bytes)} checkpoint, at "
        f"most {size_text(caches)} caches) and {size_text(needs.memory_bytes)} of memory in float32",
        markup=False,
        soft_wrap=True,
    )
    small = [f"{split}.{kind} ({len(rows)})" for (split, kind), rows in sets.items() if len(rows) < FEW_PROMPTS]
    warnings = list(others.warnings)
    if small:
        warnings.append(f"fewer than {FEW_PROMPTS} prompts in {', '.join(small)}: intervals will be wide")
    for warning in warnings:
        err().print("[yellow]warning[/]  ", end="")
        err().print(warning, markup=False, soft_wrap=True)
    console.print("whether the donor leads the target enough is measured by the run itself", style="dim")
