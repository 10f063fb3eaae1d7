"""How far a judge agrees with people: its verdicts beside labels that they gave to the same answers."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations.judging import Question
from cnt_pipeline.measures.agreement import agreement
from cnt_pipeline.measures.judges.schema import Asked, Judge, judge_all
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text

PACKAGE = "pyrit"
FOLDER = "datasets/scorer_evals/refusal_scorer"
COLUMNS = {"prompt": "objective", "answer": "assistant_response", "label": "human_score"}
"""Of the packaged labels, by what they hold."""
_YES = {"1", "1.0", "true", "yes", "refused", "harmful"}
_NO = {"0", "0.0", "false", "no", "complied", "safe", "harmless"}


@dataclass(frozen=True)
class Labels:
    """Answers with a yes or no of people, where they are from, and the digest of the files that hold them."""

    source: str
    digest: str
    asked: tuple[Asked, ...]
    human: tuple[bool, ...]


def packaged_labels() -> Labels:
    """The human-labelled refusals in the installed package pyrit, which is read and not imported.

    Raises:
        InputError: it is not installed, with what to install.
    """
    try:
        folder = package_path(PACKAGE, FOLDER)
    except InputError as error:
        raise InputError(
            f"the human-labelled refusals are not there ({error}): run `pip install --no-deps pyrit==1.1.0`, which is "
            "read and never imported, or name labels of your own with --labels FILE.csv"
        ) from None
    return read_labels(sorted(folder.glob("*.csv")), COLUMNS, f"{PACKAGE}/{FOLDER}")


def read_labels(files: Sequence[Path], columns: Mapping[str, str], source: str) -> Labels:
    """Labels from CSV files; lines before the header that begin with # are remarks.

    A label is 1, true, yes or refused (harmful, where that is asked), or 0, false, no or complied (safe).

    Raises:
        InputError: a file, column or label that cannot be read.
    """
    asked: list[Asked] = []
    human: list[bool] = []
    for file in files:
        for number, row in enumerate(_rows(file, columns), 1):
            label = (row[columns["label"]] or "").strip().lower()
            if label not in _YES | _NO:
                raise InputError(f"{file}: row {number} has the label {label!r}; write 1 or 0, true or false")
            asked.append(Asked(row[columns["prompt"]] or "", row[columns["answer"]] or "", "function"))
            human.append(label in _YES)
    if not asked:
        raise InputError(f"{source} holds no labelled answer; give a CSV file with rows")
    digest = sha256_text(canonical_json({file.name: hash_file(file) for file in files}))
    return Labels(source, digest, tuple(asked), tuple(human))


def _rows(file: Path, columns: Mapping[str, str]) -> list[dict[str, str | None]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as labels ({error}); give a CSV file in UTF-8") from None
    while text.startswith("#"):
        text = text.partition("\n")[2]
    reader = csv.DictReader(io.StringIO(text))
    missing = next((name for name in columns.values() if name not in (reader.fieldnames or ())), None)
    if missing is not None:
        raise InputError(
            f"{file} has no column '{missing}', only {', '.join(reader.fieldnames or ()) or 'none'}: name them with "
            "--columns prompt=...,answer=...,label=..."
        )
    return list(reader)


def check_judge(judge: Judge, labels: Labels, question: Question, batch_size: int) -> dict[str, Any]:
    """A judge's agreement with labels that say whether an answer refuses, or is harmful.

    What the judge could not judge (`undetermined`) is counted and left out of the figures; an incoherent answer is
    neither a refusal nor harmful, so that it counts as a no.

    Raises:
        InputError: the judge cannot tell what the labels say.
    """
    if question not in judge.tells:
        raise InputError(
            f"this judge tells {' from '.join(sorted(judge.tells))}, and the labels say what is {question}; give it "
            "labels of something that it tells, with --labels and --question"
        )
    verdicts = [each.verdict for each in judge_all(judge, labels.asked, batch_size)]
    pairs = [
        (verdict == question, human)
        for verdict, human in zip(verdicts, labels.human, strict=True)
        if verdict != "undetermined"
    ]
    found = agreement([said for said, _ in pairs], [human for _, human in pairs])
    return {
        "question": question,
        "labels": labels.source,
        "digest": labels.digest,
        "n": found.n,
        "undetermined": len(verdicts) - found.n,
        "incoherent": verdicts.count("incoherent"),
        "accuracy": found.agreed.document(),
        "precision": found.precision.document(),
        "recall": found.recall.document(),
        "kappa": found.kappa(),
        "confusion": {
            "yes_yes": found.yes_yes, "yes_no": found.yes_no, "no_yes": found.no_yes, "no_no": found.no_no,
        },
    }  # fmt: skip
