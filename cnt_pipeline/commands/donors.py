"""`cnt donors`: how far each candidate's best neurons bring the target, all at one budget."""

import json
from pathlib import Path

from cnt_pipeline.commands.console import err, out, print_document, table
from cnt_pipeline.commands.progress import RunDisplay
from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.evaluations.ntrr import BUDGET, FILE, Lead, inadmissible, lead_of
from cnt_pipeline.pipeline.chain import Chain
from cnt_pipeline.pipeline.document_parts import Interval
from cnt_pipeline.pipeline.documents import DonorRow, DonorsDocument
from cnt_pipeline.pipeline.donor_steps import ASKED, NTRR, as_donor, needed_for
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.pipeline.steps import steps_of_donor
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study

NONE_USABLE = 1


def compare_donors(path: Path, store: str | None, as_json: bool, budget: float = BUDGET) -> int:
    """Evaluate the donors of the study in `path` at `budget` (a share of all parameters), each built on the store; 0,
    or 1 where none of them can be used.

    Raises:
        CntError: the study, its target or its prompts are at fault.
    """
    study, opened = load_study(path), Store(store_url(store))
    _take_what_all_share(study, opened, budget)
    found = [_evaluate(study, name, opened, budget) for name in study.donors or ("donor",)]
    rows = sorted((row for row, _ in found), key=_worth)
    measured = next((figures for _, figures in found if figures), {})
    document = DonorsDocument(
        study=study.study,
        budget=budget,
        function=study.function.measured_by,
        target=measured.get("target"),
        target_utility=measured.get("target_utility"),
        best=rows[0].name if rows[0].ntrr and rows[0].ntrr.value > 0 else None,
        donors=rows,
    )
    if as_json:
        print_document(document)
    else:
        _print(document)
    return 0 if any(row.ntrr for row in rows) else NONE_USABLE


def _worth(row: DonorRow) -> tuple[float, float]:
    """The highest NTRR first, then the largest lead; those that cannot be used last."""
    return (-row.ntrr.value if row.ntrr else float("inf"), -(row.lead or 0))


def _take_what_all_share(study: Study, store: Store, budget: float) -> None:
    """The target and the prompts: what is wrong with them is wrong for every donor, and said once."""
    steps = needed_for(("models/target", "prompt_sets/roles"), steps_of_donor(study, budget))
    with RunDisplay(err(), steps) as display:
        chain = Chain(study, store, display, steps)
        for step in steps:
            chain.take(step.key)


def _evaluate(study: Study, name: str, store: Store, budget: float) -> tuple[DonorRow, dict[str, float]]:
    """One candidate's row, and what was seen of the target; a donor that cannot be used says why."""
    model = source_name(study.models, name)
    try:
        candidate = as_donor(study, name)
        refuse_impossible(candidate)
        steps = steps_of_donor(candidate, budget)
        with RunDisplay(err(), steps) as display:
            chain = Chain(candidate, store, display, steps)
            first = needed_for(ASKED, steps)
            for step in first:
                chain.take(step.key)
            lead = _lead(candidate, chain)
            if not lead.admits(candidate.accept):
                why = inadmissible(lead, candidate.function, candidate.accept)
                row = DonorRow(name=name, model=model, why=why, function=lead.donor, lead=lead.distance)
                return row, {"target": lead.target}
            for step in steps:
                if step not in first:
                    chain.take(step.key)
    except (InputError, StudyError) as error:
        return DonorRow(name=name, model=model, why=str(error)), {}
    figures = json.loads(chain.artifact(NTRR).path(FILE).read_text(encoding="utf-8"))
    new, own, target = figures["transplant"], figures["donor"], figures["target"]
    row = DonorRow(
        name=name,
        model=model,
        why=None,
        function=own["function"],
        lead=lead.distance,
        ntrr=Interval(**{key: figures["ntrr"][key] for key in ("value", "low", "high")}),
        neurons=figures["neurons"],
        misfire=new["misfire"],
        donor_misfire=own["misfire"],
        utility=new["utility"],
    )
    return row, {"target": target["function"], "target_utility": target["utility"]}


def _lead(study: Study, chain: Chain) -> Lead:
    from cnt_pipeline.completions.schema import file_name, read_completions
    from cnt_pipeline.prompt_sets.schema import file_name as prompt_file
    from cnt_pipeline.prompt_sets.schema import read_prompts

    prompts = read_prompts(chain.artifact("prompt_sets/roles").path(prompt_file("selection", "function")))
    target, donor = (read_completions(chain.artifact(key).path(file_name("function"))) for key in ASKED)
    return lead_of(study.function, prompts, target, donor)


def _print(document: DonorsDocument) -> None:
    console = out()
    columns = ("donor", "NTRR (95 % interval)", "neurons", document.function, "misfires", "of the donor", "utility", "")
    rows = [
        (
            row.name,
            f"{row.ntrr.value:.3f} ({row.ntrr.low:.3f}-{row.ntrr.high:.3f})" if row.ntrr else "-",
            "-" if row.neurons is None else f"{row.neurons:,}",
            *(_figure(value) for value in (row.function, row.misfire, row.donor_misfire, row.utility)),
            "best" if row.name == document.best else "",
        )
        for row in document.donors
    ]
    console.print()
    console.print(
        table(columns, rows, title=f"Best neurons of each donor within {document.budget:.2%}, copied plainly")
    )
    for row in document.donors:
        if row.why:
            console.print(f"\n{row.name}: {row.why}", markup=False, soft_wrap=True)
    target = f"the target itself: {document.function} {_figure(document.target)}"
    utility = "" if document.target_utility is None else f", utility {_figure(document.target_utility)}"
    console.print(f"\n{target}{utility}; all on selection prompts", markup=False, soft_wrap=True)
    if document.best:
        best = f"best donor: {document.best}"
    elif any(row.ntrr for row in document.donors):
        best = f"no donor moves the function within {document.budget:.2%} of the parameters: try a larger --budget"
    else:
        best = "none of these donors can be used"
    console.print(best, markup=False, soft_wrap=True)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
