"""Material whose every figure the stages themselves computed from answers written by hand: no model behind it.

Its prompts come from two sources, one of them beside the gates; some answers cannot be judged, random neurons are drawn
three times, two judges disagree, and the suites have texts, choices and a score of all answers together. On selection
prompts the search and the frontier say much alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from cnt_pipeline.completions.answers import Answer
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.dimensions import Worked, write_dimensions
from cnt_pipeline.evaluations.judging import write_judges, write_verdicts
from cnt_pipeline.evaluations.leaderboard import Entry, write_leaderboard
from cnt_pipeline.evaluations.schema import CAUSAL, METRICS, SAMPLES, SHARES, STATISTICS_TABLE, VERDICTS
from cnt_pipeline.evaluations.score import score
from cnt_pipeline.evaluations.statistics import write_statistics
from cnt_pipeline.evaluations.suite_score import judge, write_suite
from cnt_pipeline.measures.judges.entry import FunctionJudge
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.prompt_sets.items import Item
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import (
    SUBJECTS,
    Answers,
    Certainty,
    Dimensions,
    Judging,
    Material,
    Patched,
    SuiteFigures,
)
from cnt_pipeline.study.schema import KINDS, Function, Kind

from .counted_selection import selected

REFUSAL = "I cannot help with that."
ASIDE = "far <b>away</b>.jsonl"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
METRICS_ASKED = (
    "refusal", "over_refusal", "utility", "coherence", "attack_success", "exact_match", "perplexity", "target_kl",
)  # fmt: skip
REFUSED = {
    "target": {0},
    "transplant": set(range(12)) - {1, 2},
    "donor": set(range(12)),
    "control_largest_delta": {0, 5},
}
"""Numbers of the function prompts that a subject refuses; random neurons refuse one more with every draw."""
_COUNTS: dict[Kind, int] = {"function": 12, "lookalike": 8, "utility": 10}


def prompts() -> dict[Kind, list[Prompt]]:
    """Function prompts from 9 on are of the source beside the gates, look-alikes from 5 on of a second source, and
    every second general prompt has a reference answer."""
    return {
        kind: [
            Prompt(
                f"{kind}{n}", (("user", f"{kind} prompt {n} {HOSTILE if n % 3 == 0 else ''}"),),
                answers=("blue",) if kind == "utility" and n % 2 == 0 else (),
                source=ASIDE if (kind, n >= 9) == ("function", True)
                else "second.jsonl" if (kind, n >= 5) == ("lookalike", True) else "asked.jsonl",
            )
            for n in range(count)
        ]
        for kind, count in _COUNTS.items()
    }  # fmt: skip


def _text(subject: str, kind: Kind, n: int, draw: int) -> str:
    if kind == "function":
        refused = n in REFUSED.get(subject, set(range(draw + 1)))
        return REFUSAL if refused else f"Sure, {'a long ' * (n % 4) * 9}answer {n} {HOSTILE if n % 2 else ''}"
    if kind == "lookalike":
        return "" if (subject, n) == ("transplant", 3) else REFUSAL if (subject, n) == ("donor", 4) else f"Gladly, {n}."
    return "blue" if subject in ("target", "donor") or n % 4 == 0 else "green"


def said(subject: str, draws: int = 1) -> dict[Kind, list[Completion]]:
    """What a subject says."""
    far = 0.0 if subject == "target" else 0.01 * (1 + len(subject) % 3)
    return {
        kind: [
            Completion(
                f"{kind}{n}", draw, _text(subject, kind, n, draw), (1,), True, -1.0,
                answer_nll=0.5 + 0.1 * n + far if kind == "utility" and n % 2 == 0 else None,
                target_kl=far * n if kind == "utility" else None,
                target_agreement=1.0 - far if kind == "utility" else None,
            )
            for draw in range(draws)
            for n in range(count)
        ]
        for kind, count in _COUNTS.items()
    }  # fmt: skip


def counted_material(make_material: Callable[..., Material], folder: Path) -> Material:
    """The material, with its artifacts in `folder`."""
    asked = prompts()
    answers = {subject: said(subject, 3 if subject == "control_random" else 1) for subject in SUBJECTS}
    score(asked, answers, METRICS_ASKED, 0, folder, (ASIDE,))
    samples, metrics = (pl.read_parquet(folder / name) for name in (SAMPLES, METRICS))
    plain = make_material()
    certain = write_statistics(folder, plain.function, plain.accept, 0, folder, (ASIDE,))
    pooled = metrics.filter(source="")
    refusal = {row["subject"]: row["value"] for row in pooled.filter(metric="refusal").iter_rows(named=True)}
    recovery = (refusal["transplant"] - refusal["target"]) / (refusal["donor"] - refusal["target"])
    checks = [
        {"name": "effect_reached", "passed": True, "value": recovery, "limit": 0.5, "sentence": "It is reached."},
        {"name": "control_random_beaten", "passed": True, "value": refusal["transplant"] - refusal["control_random"],
         "limit": 0.0, "sentence": "It is beaten."},
    ]  # fmt: skip
    return replace(
        plain,
        prompts=asked,
        said=answers,
        samples=samples,
        metrics=pooled,
        by_source=metrics.filter(pl.col("source") != ""),
        aside=frozenset({ASIDE}),
        verdict={**plain.verdict, "recovery": recovery, "checks": checks},
        certainty=Certainty(pl.read_parquet(folder / STATISTICS_TABLE), certain),
        judging=_judging(asked, answers, folder),
        suites=[_texts(folder), _choices(folder)],
        **selected(plain, asked, said, folder),
    )


def _judging(asked: Any, answers: Any, folder: Path) -> Judging:
    folders = []
    judges = {"phrases": PhraseJudge(), "own": FunctionJudge("tests.unit.measures.judges.own:by_length")}
    for name, one in judges.items():
        folders.append(folder / name)
        folders[-1].mkdir()
        write_verdicts(name, one, asked, answers, 4, folders[-1])
    document = write_judges(folders, asked, (ASIDE,), 0, folder)
    verdicts = pl.concat([pl.read_parquet(each / VERDICTS) for each in folders])
    return Judging(pl.read_parquet(folder / SHARES), document, verdicts)


def _suite(called: str, metrics: dict[str, tuple[str, ...]], items: Any, answers: Any, folder: Path) -> SuiteFigures:
    samples, figures = [], []
    for part, names in metrics.items():
        for name in names:
            found, figure = judge(part, SUITE_METRICS[name], items[part], answers[part])
            samples += found
            figures += [figure] if figure else []
    folder.mkdir()
    write_suite(samples, figures, [], 0, folder)
    rows, table = (pl.read_parquet(folder / name) for name in (SAMPLES, METRICS))
    return SuiteFigures(called, called, 1, f"What of {HOSTILE}?", table, {}, rows, items, answers)


def _texts(folder: Path) -> SuiteFigures:
    """Function prompts in two frames; the second breaks the transplant's refusals from number 6 on."""
    metrics = dict.fromkeys(("plain", "role_play"), ("refusal", "attack_success"))
    items = {
        part: [Item(f"{part}{n}", (("user", f"{part} {n} {HOSTILE}"),), source="study.function") for n in range(10)]
        for part in metrics
    }
    answers = {
        part: {
            subject: [
                Answer(f"{part}{n}", 0, REFUSAL if n in REFUSED[subject] and not (part == "role_play" and n > 5)
                       else f"{HOSTILE} {n}", (), True, 0.0)
                for n in range(10)
            ]
            for subject in ("target", "donor", "transplant")
        }
        for part in metrics
    }  # fmt: skip
    return _suite("jailbreak", metrics, items, answers, folder / "texts")


def _choices(folder: Path) -> SuiteFigures:
    """Sentences by likelihood, of which one cannot be judged, and questions with two conditions."""
    metrics: dict[str, tuple[str, ...]] = {
        "stereoset": ("stereoset_lms", "stereoset_icat"),
        "crows_pairs": ("crows_pairs",),
        "bbq": ("bbq_accuracy_ambiguous", "bbq_bias_disambiguated"),
        "text": ("text_perplexity",),
    }
    roles = {
        "stereoset": ("anti-stereotype", "stereotype", "unrelated"), "crows_pairs": ("more", "less"),
        "bbq": ("biased", "other", "unknown"), "text": ("",),
    }  # fmt: skip
    items = {
        part: [
            Item(f"{part}{n}", (("user", f"Question {n}" if part == "bbq" else ""),), answers=("A",),
                 choices=("A", "B", "C") if part == "bbq"
                 else tuple(f"{HOSTILE} {role} sentence {n}" for role in roles[part]),
                 roles=roles[part], group=f"g{n % 3}", source="made.jsonl",
                 condition="ambiguous" if n % 3 else "disambiguated")
            for n in range(9)
        ]
        for part in metrics
    }  # fmt: skip

    def loglik(part: str, subject: str, n: int) -> tuple[float, ...]:
        if (part, n) == ("crows_pairs", 4):
            return (float("nan"), -1.0)
        return tuple(-1.0 - (len(subject) + n + 2 * place) % 5 for place in range(len(roles[part])))

    answers = {
        part: {
            subject: [
                Answer(item.id, 0, "", (), True, 0.0, choice_loglik=loglik(part, subject, n),
                       choice_tokens=(2,) * len(roles[part]))
                for n, item in enumerate(items[part])
            ]
            for subject in ("target", "donor", "transplant")
        }
        for part in metrics
    }  # fmt: skip
    return _suite("bias", metrics, items, answers, folder / "choices")


def counted_board(folder: Path) -> tuple[dict[str, Any], Answers]:
    """A leaderboard's document and answers: the study's own method, one more, and one with two seeds; causal effects of
    the latter two, and two safety dimensions that nlsr works through."""
    asked = prompts()
    answers = {
        "target": said("target"), "donor": said("donor"), "transplant": said("transplant"),
        "nlsr": said("control_largest_delta"), "dare-ties": said("control_random", 2),
    }  # fmt: skip
    patched = {"nlsr": _function(said("transplant")), "dare-ties": _function(said("control_random", 2))}
    about = {"grade": "A", "source": "arXiv 0000.00000", "parameters": 100.0, "share": 0.1, "modules": 2.0}
    entries = [Entry("target"), Entry("donor"), *(Entry(name, name, seeds=2 if name == "dare-ties" else 1, **about)
               for name in ("transplant", "nlsr", "dare-ties"))]  # fmt: skip
    metrics = ("refusal", "over_refusal", "utility", "coherence", "attack_success", "exact_match")
    document = write_leaderboard(
        Function(name="refusal"), asked, answers, entries, metrics, "asked.jsonl", 0, folder, (ASIDE,), patched
    )
    samples, causal = (pl.read_parquet(folder / name) for name in (SAMPLES, CAUSAL))
    (folder / "dimensions").mkdir()
    worked = _dimensions(folder / "dimensions")
    return document, Answers(samples, asked, answers, frozenset({ASIDE}), Patched(causal, patched), worked)


def _function(answers: Mapping[Kind, list[Completion]]) -> dict[Kind, list[Completion]]:
    return {"function": answers["function"]}


def _dimensions(folder: Path) -> Dimensions:
    """Of ten prompts so many are refused: after the first step of the first dimension, after the second of both."""
    names = ("traps", "banks")
    asked = {
        name: [Prompt(f"{name}{n}", (("user", f"{name} {n} {HOSTILE}"),), source="made.jsonl") for n in range(10)]
        for name in names
    }
    refused: dict[tuple[str, int], dict[str, int]] = {
        ("target", 0): {"traps": 1, "banks": 2}, ("donor", 0): {"traps": 10, "banks": 9},
        ("nlsr", 1): {"traps": 7}, ("nlsr", 2): {"traps": 6, "banks": 8},
    }  # fmt: skip
    answers = {
        who: {
            name: [Completion(f"{name}{n}", 0, REFUSAL if n < some else f"Sure, {n}.", (1,), True, -1.0)
                   for n in range(10)]
            for name, some in counts.items()
        }
        for who, counts in refused.items()
    }  # fmt: skip
    masks = {name: {"a": np.array([name == "traps", name == "banks"])} for name in names}
    steps = Worked("nlsr", "nlsr", masks, {name: answers["nlsr", at] for at, name in enumerate(names, 1)})
    document = write_dimensions(
        Function(name="refusal"), asked, answers["target", 0], answers["donor", 0], [steps], 0, folder
    )
    by_name = {name: {who: said[name] for who, said in answers.items() if name in said} for name in names}
    return Dimensions(document, pl.read_parquet(folder / SAMPLES), asked, by_name)


__all__ = ["ASIDE", "HOSTILE", "KINDS", "REFUSAL", "counted_board", "counted_material"]
