"""What judges say of the answers, and where two of them disagree, as rows of text."""

from dataclasses import dataclass
from typing import Any

from cnt_pipeline.measures.judges.record import phrase_agreement
from cnt_pipeline.measures.judges.schema import VERDICTS
from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.reports.views import judge_view
from cnt_pipeline.study.schema import Kind

ASKED: dict[Kind, str] = {"function": "Answers to function prompts", "lookalike": "Answers to benign look-alikes"}


@dataclass(frozen=True)
class JudgedRow:
    """One subject by one judge: share and interval of every verdict, in the order of `VERDICTS`, and the view of each.

    `view` is that of all verdicts together.
    """

    judge: str
    subject: str
    name: str
    cells: tuple[tuple[str, str, str], ...]
    n: str
    view: str


@dataclass(frozen=True)
class Disagreement:
    """Two judges on one question: how often they agree, kappa, and the answers of which one alone says yes."""

    one: str
    other: str
    question: str
    agreed: str
    agreed_interval: str
    kappa: str
    kappa_interval: str
    one_alone: str
    other_alone: str
    n: str
    unjudged: int
    at: int
    """Its place among the pairs, for the views of its answers."""


def judged_tables(material: Material) -> list[tuple[str, list[JudgedRow]]]:
    """A table for each kind of prompts that judges judge; none where the study names no judge."""
    if material.judging is None:
        return []
    found = {
        (row["kind"], row["judge"], row["subject"], row["verdict"]): row
        for row in material.judging.shares.iter_rows(named=True)
    }
    names = [judge["name"] for judge in material.judging.document["judges"]]
    return [
        (heading, [_row(found, kind, at, name, subject) for at, name in enumerate(names) for subject in SUBJECTS])
        for kind, heading in ASKED.items()
    ]


def _row(
    found: dict[tuple[str, str, str, str], dict[str, Any]], kind: str, at: int, judge: str, subject: str
) -> JudgedRow:
    shares = [found[kind, judge, subject, verdict] for verdict in VERDICTS]
    cells = tuple((*_share(each), judge_view(at, kind, subject, each["verdict"])) for each in shares)
    view = judge_view(at, kind, subject)
    return JudgedRow(judge, subject, words.SUBJECT_NAMES[subject], cells, words.number(shares[0]["n"]), view)


def disagreements(material: Material) -> list[Disagreement]:
    """A row for every two judges and question that both can answer."""
    if material.judging is None:
        return []
    return [_disagreement(pair, at) for at, pair in enumerate(material.judging.document["pairs"])]


def _disagreement(pair: dict[str, Any], at: int) -> Disagreement:
    agreed, agreed_interval = _share(pair["agreed"])
    kappa, kappa_interval = words.NONE, ""
    if (found := pair["kappa"]) is not None:
        kappa = words.number(found["value"], 2)
        kappa_interval = f"{words.number(found['low'], 2)} to {words.number(found['high'], 2)}"
    return Disagreement(
        one=pair["one"],
        other=pair["other"],
        question=pair["question"],
        agreed=agreed,
        agreed_interval=agreed_interval,
        kappa=kappa,
        kappa_interval=kappa_interval,
        one_alone=words.number(pair["yes_no"]),
        other_alone=words.number(pair["no_yes"]),
        n=words.number(pair["n"]),
        unjudged=pair["unjudged"],
        at=at,
    )


def _share(rate: dict[str, Any] | None) -> tuple[str, str]:
    if rate is None:
        return words.NONE, ""
    interval = f"{words.number(100 * rate['low'], 1)} to {words.number(100 * rate['high'], 1)}"
    return words.percent(rate["value"]), interval


def judge_notes(material: Material) -> list[str]:
    """What each judge can tell, a sentence each."""
    judges = material.judging.document["judges"] if material.judging else ()
    return [
        f"{judge['name']} tells {words.listed([verdict for verdict in VERDICTS if verdict in judge['tells']])}"
        + ("." if "refused" in judge["tells"] else "; what it calls safe includes refusals.")
        for judge in judges
    ]


def phrase_agreement_sentence() -> str:
    """How far the phrase families agree with people, from the packaged record."""
    record = phrase_agreement()

    def rate(name: str) -> str:
        each = record[name]
        return f"{words.percent(each['value'], 0)} ({100 * each['low']:.0f} to {100 * each['high']:.0f})"

    kappa = record["kappa"]
    return (
        f"Measured on {record['n']} answers that people labelled ({record['package']}), the phrases of version "
        f"{record['phrases_version']} agree with them on {rate('accuracy')}, Cohen's kappa {kappa['value']:.2f} "
        f"({kappa['low']:.2f} to {kappa['high']:.2f}): of what they call a refusal people do so in "
        f"{rate('precision')}, and they find {rate('recall')} of what people call one, which includes "
        "answers beside the point."
    )
