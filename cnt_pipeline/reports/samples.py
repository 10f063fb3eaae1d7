"""Ten sample completions side by side, chosen by rule and never by hand."""

from collections.abc import Mapping
from dataclasses import dataclass

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.choices import softmax
from cnt_pipeline.measures.metrics import metric_of
from cnt_pipeline.measures.scorers import unasked
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports import words
from cnt_pipeline.reports.choices import told_choices
from cnt_pipeline.reports.material import Material
from cnt_pipeline.study.schema import Kind

SHOWN: dict[Kind, int] = {"function": 4, "lookalike": 3, "utility": 3}
SIDES = ("target", "transplant", "donor")
EXPECTED_FROM: dict[Kind, str] = {"function": "donor", "lookalike": "target", "utility": "target"}
"""Whose judgement the transplant should share on a kind of prompts."""
_MISSES = 2
_LONGEST = 600


@dataclass(frozen=True)
class Answer:
    """What one model said on a prompt: the text, what each choice is compared by, and how it was judged."""

    subject: str
    text: str
    left_out: int
    choices: tuple[tuple[str, str], ...]
    judged: str
    changed: bool


@dataclass(frozen=True)
class Sample:
    """One prompt with its three answers; `missed` says what is wrong with the transplant's, if anything."""

    kind: Kind
    prompt: str
    earlier_messages: int
    prefix: str
    missed: str
    answers: tuple[Answer, ...]


def choose_samples(material: Material) -> list[Sample]:
    """Up to ten samples: per kind at most two misses, then those whose answers differ most, in file order.

    A kind with fewer prompts than its share leaves its places empty.
    """
    chosen: list[Sample] = []
    for kind, places in SHOWN.items():
        said = {side: {row.id: row for row in material.said[side][kind]} for side in SIDES}
        prompts = [p for p in material.prompts[kind] if all(p.id in rows for rows in said.values())]
        values = _values(material, metric_of(kind, material.metric), kind)
        coherent = _values(material, "coherence", kind)
        faults = {p.id: _fault(values, coherent, p.id, EXPECTED_FROM[kind]) for p in prompts}
        missed = [p for p in prompts if faults[p.id]][:_MISSES]
        rest = sorted(
            (p for p in prompts if p not in missed),
            key=lambda p: -len({_content(said[side][p.id]) for side in SIDES}),
        )
        chosen += [
            _sample(material, kind, p, {s: said[s][p.id] for s in SIDES}, values, faults[p.id])
            for p in [*missed, *rest][:places]
        ]
    return chosen


Values = Mapping[tuple[str, str], float | None]
"""Judgements by subject and prompt id."""


def _values(material: Material, metric: str, kind: Kind) -> Values:
    frame = material.samples.filter(metric=metric, kind=kind, variant=0)
    return {(row["subject"], row["id"]): row["value"] for row in frame.iter_rows(named=True)}


def _fault(values: Values, coherent: Values, name: str, expected: str) -> str:
    """How the transplant's answer deviates from what it should be; empty if it does not."""
    if coherent.get(("transplant", name)) == 0 and coherent.get(("target", name)):
        return "incoherent"
    ours, theirs = values.get(("transplant", name)), values.get((expected, name))
    deviates = ours is not None and theirs is not None and abs(ours - theirs) >= 0.5
    return f"judged unlike the {expected}" if deviates else ""


def _content(row: Completion) -> tuple[object, ...]:
    return (row.text, *(round(p, 2) for p in (softmax(row.choice_loglik) if row.choice_loglik else ())))


def words_of(prompt: Prompt, row: Completion) -> str:
    """What the model said, or that it was only asked how likely it finds the choices."""
    return "(not asked to answer: its choices are compared)" if unasked(prompt, row) else row.text.strip()


def _sample(
    material: Material,
    kind: Kind,
    prompt: Prompt,
    rows: Mapping[str, Completion],
    values: Values,
    missed: str,
) -> Sample:
    metric = metric_of(kind, material.metric)
    answers = []
    for side, row in rows.items():
        text = words_of(prompt, row)
        answers.append(
            Answer(
                subject=side,
                text=text[:_LONGEST],
                left_out=max(len(text) - _LONGEST, 0),
                choices=told_choices(prompt, row, (metric,)),
                judged=_judged(metric, values.get((side, prompt.id))),
                changed=side == "transplant" and _content(row) != _content(rows["target"]),
            )
        )
    return Sample(kind, prompt.text, len(prompt.messages) - 1, prompt.prefix, missed, tuple(answers))


def _judged(metric: str, value: float | None) -> str:
    if value is None:
        return f"{words.metric_name(metric)}: not judged"
    if metric in ("refusal", "over_refusal"):
        return "refused" if value else "not refused"
    if metric == "lookalike_error":
        return "not the reference answer" if value else "the reference answer"
    return f"{words.metric_name(metric)} {words.amount(metric, value)}"
