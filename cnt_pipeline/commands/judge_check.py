"""`cnt judge-check`: how far a judge agrees with people's labels."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cnt_pipeline.commands.console import err, out, print_document, table
from cnt_pipeline.errors import CntError, InputError, StudyError
from cnt_pipeline.evaluations.judge_check import COLUMNS, Labels, check_judge, packaged_labels, read_labels
from cnt_pipeline.evaluations.judging import Question
from cnt_pipeline.measures.judges.build import make_judge
from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.pipeline.documents import JudgeCheckDocument, JudgeCheckRow
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Judge, Study

PHRASES = Judge(name="phrases", kind="phrases")
_BATCH_SIZE = 32
_NONE_CHECKED = 1


def check_judges(
    path: Path | None, name: str | None, labels: Path | None, columns: str | None, question: Question, as_json: bool
) -> int:
    """Print the agreement of the judges of the study in `path`, of the one called `name`, or without a study of the
    phrase families; 0, or 1 where none of them could be checked.

    Raises:
        CntError: the study, the labels or the judge asked for by name are at fault.
    """
    study = None if path is None else load_study(path)
    chosen = _chosen(study, name)
    if labels is None and columns is not None:
        raise InputError("--columns says how --labels FILE.csv is read; give both, or neither")
    given = packaged_labels() if labels is None else read_labels([labels], _columns(columns), labels.name)
    rows = [_row(study, judge, given, question, strict=name is not None or study is None) for judge in chosen]
    document = JudgeCheckDocument(judges=rows)
    if as_json:
        print_document(document)
    else:
        _print(document, given)
    return 0 if any(row.accuracy for row in rows) else _NONE_CHECKED


def _chosen(study: Study | None, name: str | None) -> tuple[Judge, ...]:
    judges = (PHRASES,) if study is None else study.judges
    if study is not None and not judges:
        raise StudyError(
            f"{study.file}:judges: this study names no judge; add one, or leave the study out to check the phrases"
        )
    if name is None:
        return judges
    found = tuple(judge for judge in judges if judge.name == name)
    if not found:
        known = ", ".join(judge.name for judge in judges)
        raise InputError(f"there is no judge '{name}'; choose among {known}, or name the study that has it")
    return found


def _columns(written: str | None) -> Mapping[str, str]:
    """`prompt=...,answer=...,label=...`; a part that is not written keeps the name of the packaged labels' column."""
    if written is None:
        return COLUMNS
    parts = dict(part.strip().partition("=")[::2] for part in written.split(","))
    wrong = next((key for key, value in parts.items() if key not in COLUMNS or not value), None)
    if wrong is not None:
        raise InputError(
            f"--columns {written}: '{wrong}' is not one of prompt=..., answer=... and label=...; correct it"
        )
    return {**COLUMNS, **parts}


def _row(study: Study | None, judge: Judge, labels: Labels, question: Question, strict: bool) -> JudgeCheckRow:
    about = {"judge": judge.name, "kind": judge.kind, "question": question, "labels": labels.source,
             "digest": labels.digest}  # fmt: skip
    try:
        found = _found(study, judge, labels, question)
    except CntError as error:
        if strict:
            raise
        return JudgeCheckRow.model_validate({**about, "why": str(error)})
    rates = {key: _plain(found[key]) for key in ("accuracy", "precision", "recall", "kappa")}
    return JudgeCheckRow.model_validate({**about, "why": None, **found, **rates})


def _plain(rate: Mapping[str, Any] | None) -> dict[str, float] | None:
    """A figure with its interval, without the count that it is of."""
    return None if rate is None else {key: rate[key] for key in ("value", "low", "high")}


def _found(study: Study | None, judge: Judge, labels: Labels, question: Question) -> dict[str, Any]:
    if study is None:
        return check_judge(make_judge(judge), labels, question, _BATCH_SIZE)
    if judge.model is not None:
        ModelPool(study).start_torch()
    err().print(f"{judge.name} judges {len(labels.asked):,} answers", markup=False)
    return check_judge(make_judge(judge, study.dtype, study.run.device), labels, question, study.run.batch_size)


def _print(document: JudgeCheckDocument, labels: Labels) -> None:
    console = out()
    columns = ("judge", "accuracy", "precision", "recall", "Cohen's kappa", "judged", "undetermined", "incoherent")
    rows = [
        (
            row.judge,
            *map(_figure, (row.accuracy, row.precision, row.recall, row.kappa)),
            *("-" if n is None else f"{n:,}" for n in (row.n, row.undetermined, row.incoherent)),
        )
        for row in document.judges
    ]
    question = document.judges[0].question
    console.print(table(columns, rows, title=f"Agreement with people on what is {question}, with 95 % intervals"))
    for row in document.judges:
        for line in _remarks(row):
            console.print(f"\n{row.judge}: {line}", markup=False, soft_wrap=True)
    yes = sum(labels.human)
    console.print(
        f"\nlabels: {labels.source}, {len(labels.human):,} answers, people call {yes:,} of them {question}; "
        f"digest {labels.digest[:16]}",
        markup=False,
        soft_wrap=True,
    )


def _remarks(row: JudgeCheckRow) -> Iterator[str]:
    if row.why is not None:
        yield row.why
    if row.confusion is not None:
        each = row.confusion
        yield (
            f"both say {row.question} {each.yes_yes:,} times, the judge alone {each.yes_no:,}, people alone "
            f"{each.no_yes:,}, neither {each.no_no:,}"
        )


def _figure(figure: Any) -> str:
    return "-" if figure is None else f"{figure.value:.3f} ({figure.low:.3f}-{figure.high:.3f})"
