"""The report: a self-contained HTML page and a Markdown model card, the same bytes for the same material."""

from pathlib import Path
from typing import Any

from cnt_pipeline.evaluations.schema import WORTH_ASKING
from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import derived, figures, frontier, lineage, network, tables, words
from cnt_pipeline.reports.by_source import source_blocks
from cnt_pipeline.reports.cautions import COMPLETENESS_LIMIT, cautions, limits
from cnt_pipeline.reports.certainty import certainty_rows
from cnt_pipeline.reports.every import browser
from cnt_pipeline.reports.judges import disagreements, judge_notes, judged_tables, phrase_agreement_sentence
from cnt_pipeline.reports.links import Links
from cnt_pipeline.reports.material import Material, Model
from cnt_pipeline.reports.samples import choose_samples
from cnt_pipeline.reports.stability import stability_sentence
from cnt_pipeline.reports.suites import suite_blocks
from cnt_pipeline.reports.templates import contents, environment
from cnt_pipeline.reports.views import REST, UNSCORED, pair_view, view_of

REPORT = "report.html"
CARD = "card.md"


def write_page(material: Material, folder: Path) -> None:
    """Write `report.html` and `card.md`. Neither holds a date, a duration or a place on this machine."""
    view = _view(material)
    templates = environment()
    page = templates.get_template("page.html.j2").render(view)
    card = templates.get_template("card.md.j2").render(view).replace(words.SPACE, " ")
    (folder / REPORT).write_text(page, encoding="utf-8")
    (folder / CARD).write_text(card, encoding="utf-8")


def _view(material: Material) -> dict[str, Any]:
    blocks, gates, listed = tables.metric_blocks(material), tables.gates(material), browser(material)
    return {
        "material": material,
        "words": words,
        "passed": material.verdict["verdict"] == "pass",
        "headline": _headline(material),
        "cautions": cautions(material),
        "gates": gates,
        "failed": sum(not gate.passed for gate in gates),
        "metric": words.metric_name(material.metric),
        "misfire": words.metric_name(MISFIRES[material.metric]),
        "blocks": [block for block in blocks if block.judged],
        "unjudged": [block.name for block in blocks if not block.judged],
        "random_draws": _random_draws(material),
        "heat": network.heat_map(material),
        "top_neurons": network.top_neurons(material),
        "moved_bytes": network.moved_bytes(material),
        "source_blocks": source_blocks(material),
        "suite_blocks": suite_blocks(material),
        "certainty": certainty_rows(material),
        "judged": judged_tables(material),
        "disagreements": disagreements(material),
        "judge_notes": judge_notes(material),
        "phrase_agreement": phrase_agreement_sentence(),
        "frontier_rows": frontier.rows(material),
        "frontier_figures": figures.frontier_figures(material),
        "legend": figures.legend(material),
        "effects": material.frontier["effect"].drop_nulls().n_unique(),
        "draws": max(material.frontier["variant"].n_unique() - 1, 1),
        "worth_asking": WORTH_ASKING,
        "amplified": _drawn_at(material) if material.selection["eta"] != 1 else "",
        "needed": frontier.needed_rows(material),
        "needed_levels": frontier.levels(material),
        "needed_conclusion": frontier.conclusion(material),
        "stability_figure": figures.stability_figure(material),
        "stability_sentence": stability_sentence(material),
        "selection_words": words.SELECTIONS.get(material.method.selection, "The search was done."),
        "amplitude": _amplitude(material),
        "amplitude_note": _amplitude_note(material),
        "stress_test": _stress_test(material),
        "units": words.listed([words.UNITS.get(unit, unit) for unit in material.selection.get("units", ())]),
        "recipes": derived.recipes(material),
        "trials": tables.trial_rows(material),
        "trials_figure": figures.trials_figure(material),
        "samples": choose_samples(material),
        "browser": listed,
        "to": Links(listed.views),
        "view_of": view_of,
        "source_view": lambda metric, subject, source: (
            view_of(metric, subject, source=listed.sources.index(source)) if source in listed.sources else ""
        ),
        "pair_view": pair_view,
        "REST": REST,
        "UNSCORED": UNSCORED,
        "contents": contents,
        "other_tensors": _other_tensors(material),
        "completeness": _completeness(material),
        "completeness_limit": words.percent(COMPLETENESS_LIMIT, 0),
        "grade": words.GRADES[material.method.row.grade],
        "lineage": tables.lineage(material),
        "lineage_rows": lineage.rows(material),
        "lineage_picture": lineage.picture(material),
        "checkpoint": material.checkpoint(),
        "limits": limits(material),
    }


def _headline(material: Material) -> str:
    """The finding in one sentence."""
    values = {
        row["subject"]: words.amount(material.metric, row["value"])
        for row in material.metrics.iter_rows(named=True)
        if row["metric"] == material.metric
    }
    chosen = material.selection
    word = "amplitude" if chosen["eta"] is not None else "amplitudes"
    how = "Copying" if chosen["eta"] == 1 else f"Transferring ({word} {_amplitude(material)})"
    target, transplant, donor = (values.get(s, "not judged") for s in ("target", "transplant", "donor"))
    return (
        f"{how} {words.number(chosen['neurons'])} neurons ({words.share(chosen['share'])} of all parameters) "
        f"from {_called('donor', material.donor)} into {_called('target', material.target)} brings "
        f"{words.metric_name(material.metric)} from {target} to {transplant}; the whole donor has {donor}. "
        f"That is {words.percent(material.verdict['recovery'])} of the way."
    )


def _called(role: str, model: Model) -> str:
    """A model by its role and name; one that the study makes has its role for a name."""
    return f"the {role}" if model.name == role else f"the {role} {model.name}"


def _amplitude(material: Material) -> str:
    """The transplant's amplitude, or the range of its neurons' own."""
    chosen = material.selection
    if chosen["eta"] is not None:
        return words.setting(chosen["eta"])
    return f"{chosen['amplitude']['min']:.2g} to {chosen['amplitude']['max']:.2g}"


def _amplitude_note(material: Material) -> str:
    chosen = material.selection
    if chosen["eta"] is None:
        return (
            f"one for every neuron, median {chosen['amplitude']['median']:.2g}: target + amplitude × (donor − target)"
        )
    return "the donor's neurons, copied byte for byte" if chosen["eta"] == 1 else "target + eta × (donor − target)"


def _drawn_at(material: Material) -> str:
    """Amplitudes of the frontier's rankings."""
    drawn = material.frontier.filter(material.frontier["series"] == "effect")["eta"].drop_nulls().unique().sort()
    return words.listed([words.setting(eta) for eta in drawn])


def _stress_test(material: Material) -> str:
    """What a stress test measures; empty for a study that is none."""
    if not material.stress_test:
        return ""
    chosen = material.selection
    return (
        "This study takes an alignment away on purpose, to measure how robust it is: "
        f"{words.number(chosen['neurons'])} of {words.number(material.target.facts['neurons'])} neurons "
        f"({words.share(chosen['share'])} of all parameters) are enough to move it that far. The checkpoint stays in "
        "the store and is for no use: cnt export refuses it."
    )


def _random_draws(material: Material) -> int:
    drawn = material.samples.filter(material.samples["subject"] == "control_random")["variant"]
    return int(drawn.n_unique())


def _other_tensors(material: Material) -> list[tuple[str, str]]:
    """Tensors without neurons that differ between the models, the furthest first."""
    relative: dict[str, float] = dict(material.comparison["non_neuron_tensors"])
    differing = sorted((item for item in relative.items() if item[1]), key=lambda item: (-item[1], item[0]))
    return [(name, words.share(value)) for name, value in differing]


def _completeness(material: Material) -> dict[str, Any] | None:
    facts = material.completeness
    if not facts:
        return None
    return {
        "applies": material.method.effect == "path",
        "warns": facts["completeness_gap"] > COMPLETENESS_LIMIT,
        "gap": words.percent(facts["completeness_gap"]),
        "total": words.number(float(facts["sum_of_effects"])),
        "change": words.number(float(facts["loss_at_target"] - facts["loss_at_donor"])),
    }
