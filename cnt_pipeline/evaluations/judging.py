"""What judges say of stored answers: a row per answer, and where two judges disagree. No answer is generated."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.evaluations.schema import JUDGE, JUDGES_SUMMARY, SHARES, SHARES_SCHEMA, VERDICTS, VERDICTS_SCHEMA
from cnt_pipeline.measures.agreement import agreement
from cnt_pipeline.measures.intervals import mean_interval
from cnt_pipeline.measures.judges.schema import JUDGED, Asked, Judge, judge_all
from cnt_pipeline.measures.judges.schema import VERDICTS as ALL_VERDICTS
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Kind

Question = Literal["harmful", "refused"]
QUESTIONS: tuple[Question, ...] = ("harmful", "refused")
"""What two judges are compared on: each is a yes or no that both can tell."""
_UNJUDGED = ("undetermined", "incoherent")


def write_verdicts(
    name: str,
    judge: Judge,
    prompts: Mapping[Kind, Sequence[Prompt]],
    said: Mapping[str, Mapping[Kind, Sequence[Completion]]],
    batch_size: int,
    folder: Path,
) -> dict[str, Any]:
    """Write `verdicts.parquet` and `judge.json` of one judge on every subject's answers; returns the latter.

    An answer that was given to the same prompt several times is judged once.
    """
    by_id = {prompt.id: prompt for kind in JUDGED for prompt in prompts[kind]}
    answers = [(subject, kind, row) for subject, by_kind in said.items() for kind in JUDGED for row in by_kind[kind]]
    asked = [_asked(by_id[row.id], kind, row) for _, kind, row in answers]
    each = list(dict.fromkeys(asked))
    verdicts = dict(zip(each, judge_all(judge, each, batch_size), strict=True))
    rows = [
        {
            "subject": subject, "kind": kind, "id": row.id, "variant": row.variant, "judge": name,
            "verdict": verdicts[one].verdict, "confidence": verdicts[one].confidence,
        }
        for (subject, kind, row), one in zip(answers, asked, strict=True)
    ]  # fmt: skip
    write_parquet(pa.Table.from_pylist(rows, schema=VERDICTS_SCHEMA), folder / VERDICTS)
    document = {
        "name": name,
        "tells": sorted(judge.tells),
        "counts": {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ALL_VERDICTS},
    }
    (folder / JUDGE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _asked(prompt: Prompt, kind: Kind, said: Completion) -> Asked:
    return Asked(prompt.text, said.text, kind, prompt.prefix, prompt.messages[:-1])


def write_judges(
    folders: Sequence[Path], prompts: Mapping[Kind, Sequence[Prompt]], aside: Collection[str], seed: int, folder: Path
) -> dict[str, Any]:
    """Write `shares.parquet` and `judges.json` from the folders of several judges; returns the latter.

    `judges.json` has the judges with what they tell, and for every two how far they agree on each question that both
    can answer. Prompts of the sources `aside` are left out of both.
    """
    judges = [json.loads((each / JUDGE).read_text(encoding="utf-8")) for each in folders]
    read = {prompt.id for kind in JUDGED for prompt in prompts[kind] if prompt.source not in aside}
    frame = pl.concat([pl.read_parquet(each / VERDICTS, glob=False) for each in folders])
    frame = frame.filter(pl.col("id").is_in(list(read)))
    write_parquet(pa.Table.from_pylist(list(_shares(frame, seed)), schema=SHARES_SCHEMA), folder / SHARES)
    pairs = [pair for one, other in combinations(judges, 2) for pair in _pairs(frame, one, other)]
    document = {"judges": judges, "pairs": pairs}
    (folder / JUDGES_SUMMARY).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return document


def _shares(frame: pl.DataFrame, seed: int) -> Iterator[dict[str, Any]]:
    keys = ("judge", "subject", "kind")
    for names, part in frame.group_by(*keys, maintain_order=True):
        for verdict in ALL_VERDICTS:
            means = part.group_by("id").agg((pl.col("verdict") == verdict).mean()).sort("id")["verdict"].to_list()
            value, low, high, n = mean_interval(means, seed)
            about = dict(zip(keys, names, strict=True))
            yield {**about, "verdict": verdict, "value": value, "low": low, "high": high, "n": n}


def _pairs(frame: pl.DataFrame, one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Two judges on each question that both can tell, over all subjects' answers; what either could not judge is left
    out and counted."""
    keys = ["subject", "kind", "id", "variant"]
    both = frame.filter(judge=one["name"]).join(frame.filter(judge=other["name"]), on=keys)
    judged = both.filter(~pl.col("verdict").is_in(_UNJUDGED) & ~pl.col("verdict_right").is_in(_UNJUDGED))
    for question in QUESTIONS:
        if question not in one["tells"] or question not in other["tells"]:
            continue
        answers = judged.select(
            (pl.col("verdict") == question).alias("one"), (pl.col("verdict_right") == question).alias("other")
        )
        found = agreement(answers["one"].to_list(), answers["other"].to_list())
        yield {
            "one": one["name"],
            "other": other["name"],
            "question": question,
            "unjudged": len(both) - len(judged),
            **found.document(),
        }
