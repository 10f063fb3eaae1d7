"""What a reader must know before trusting the verdict, and what no evaluation of this kind can know."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.metrics import MISFIRES
from cnt_pipeline.reports import words
from cnt_pipeline.reports.judges import phrase_agreement_sentence
from cnt_pipeline.reports.material import Material

COMPLETENESS_LIMIT = 0.05
"""Gap of the path effects above which the report warns (methods section 1)."""
_UNSCORED_LIMIT = 0.1


@dataclass(frozen=True)
class Caution:
    """One such fact, and the section of the page that tells more."""

    text: str
    section: str


def cautions(material: Material) -> list[Caution]:
    """All of them, the gravest first."""
    rows = {(row["subject"], row["metric"]): row for row in material.metrics.iter_rows(named=True)}
    return [
        *_search(material),
        *(Caution(sentence, "sources") for sentence in material.verdict["beside"]),
        *_idle_gates(material, rows),
        *_coherence(rows),
        *_unscored(material, rows),
        *_completeness(material),
        *_controls(material),
        *_ancestry(material),
        *_pair(material),
    ]


def _search(material: Material) -> list[Caution]:
    if material.selection["meets_every_limit"]:
        return []
    text = "The search found no candidate that meets every limit; the transplant is the closest that was tried."
    return [Caution(text, "search")]


def _idle_gates(material: Material, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Caution]:
    """Gates that hold whatever the transplant does, because their metric already lies at its end."""
    found = []
    misfire = MISFIRES[material.metric]
    donor, target = rows.get(("donor", misfire)), rows.get(("target", "utility"))
    if donor is not None and donor["value"] + material.accept.over_refusal >= 1:
        found.append(
            Caution(
                f"The donor's {words.metric_name(misfire)} is {words.percent(donor['value'])}: the gate on "
                "look-alikes cannot fail and says nothing.",
                "metrics",
            )
        )
    if target is not None and target["value"] - material.accept.utility_loss <= 0:
        found.append(
            Caution(
                f"The target's utility is {words.percent(target['value'])}: the gate on utility cannot fail "
                "and says nothing.",
                "metrics",
            )
        )
    return found


def _coherence(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Caution]:
    row = rows.get(("transplant", "coherence"))
    if row is None or row["vs_target_high"] is None or row["vs_target_high"] >= 0:
        return []
    return [
        Caution(
            f"Coherence lies {words.change('coherence', row['vs_target'])} from the target's.",
            "metrics",
        )
    ]


def _unscored(material: Material, rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Caution]:
    found = []
    for metric in (material.metric, MISFIRES[material.metric], "utility"):
        row = rows.get(("transplant", metric))
        asked = (row["n"] + row["unscored"]) if row else 0
        if row is None or row["unscored"] > _UNSCORED_LIMIT * asked:
            left = f"{row['unscored']:,} of {asked:,} prompts" if row else "no prompt"
            verb = "could not be judged" if row else "could be judged"
            found.append(Caution(f"For {words.metric_name(metric)} {left} {verb}.", "metrics"))
    return found


def _completeness(material: Material) -> list[Caution]:
    if material.method.effect != "path":
        return []
    gap = material.completeness["completeness_gap"]
    if gap <= COMPLETENESS_LIMIT:
        return []
    return [Caution(f"The neuron effects do not add up (gap {words.percent(gap)}).", "completeness")]


def _controls(material: Material) -> list[Caution]:
    """A control may beat the transplant in parameters though it loses on the test prompts at the same budget."""
    if material.needed["fewer_than_controls"] is not False:
        return []
    text = "On the selection prompts a control was not seen to need more parameters for the same recovery."
    return [Caution(text, "frontier")]


def _ancestry(material: Material) -> list[Caution]:
    found = material.comparison.get("ancestry")
    if found is None or found["shared"]:
        return []
    return [
        Caution(
            "Target and donor seem to have no shared ancestor: the median cosine between a neuron's weights in the one "
            f"and in the other is {words.number(found['median_cosine'], 2)}, and for "
            f"{words.percent(found['share_low'], 0)} of the neurons it is low. Neurons of equal number need not do the "
            "same work.",
            "pair",
        )
    ]


def _pair(material: Material) -> list[Caution]:
    count = len(material.comparison["warnings"])
    if not count:
        return []
    return [Caution(f"The comparison of target and donor left {count} warning{'s' if count > 1 else ''}.", "pair")]


def limits(material: Material) -> list[str]:
    """What the evaluation cannot know, with the figures that bound it."""
    scorers: dict[str, int] = {}
    for origin in material.origins:
        if origin.key == "evaluations/scores":
            scorers = dict(origin.slice["scorers"])
    return [
        *_scorer_limits(scorers),
        *_small_numbers(material),
        "Answers are greedy and short, each to one prompt: no attack, no sampling, no long talk was tried.",
        f"The search tried {len(material.trials)} candidates on the selection prompts; only the figures on "
        "test prompts are free of that choice, and they hold for prompts of the same kind.",
        "The frontier is drawn on selection prompts, and between its budgets nothing was measured.",
    ]


def _scorer_limits(scorers: Mapping[str, int]) -> list[str]:
    found = []
    if "refusal" in scorers:
        found.append(
            "Refusals are found by phrases near the start of an answer (phrase list version "
            f"{scorers['refusal']}). A phrase is not an intention: a refusal in other words counts as "
            "compliance, an apology followed by help as refusal, and what an answer contains is not judged. "
            + phrase_agreement_sentence()
        )
    if "pronoun_gap" in scorers:
        found.append(
            "The pronoun gap compares likelihoods of the listed choices in one place of a sentence. It does "
            "not read what the model writes of its own accord, and knows of no other stereotype."
        )
    return found


def _small_numbers(material: Material) -> list[str]:
    misfire = MISFIRES[material.metric]
    rows = material.metrics.filter(subject="transplant", metric=misfire).to_dicts()
    return [
        f"Small numbers: {words.metric_name(misfire)} of {words.amount(misfire, row['value'])} on "
        f"{words.number(row['n'])} prompts is compatible with up to {words.amount(misfire, row['high'])}."
        for row in rows
    ]
