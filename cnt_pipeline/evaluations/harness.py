"""Tasks of lm-evaluation-harness on a model of the study: its own prompts and metrics, its rows in our Parquet."""

import copy
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations.suite_score import Figure
from cnt_pipeline.evaluations.task_files import read_task
from cnt_pipeline.measures.choices import By
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.fingerprint import canonical_json, sha256_text
from cnt_pipeline.study.schema import Part

ROWS, DOCUMENT = "harness.parquet", "harness.json"
HARNESS_SCHEMA = pa.schema(
    [
        ("part", pa.string()),
        ("task", pa.string()),
        ("metric", pa.string()),
        ("filter", pa.string()),
        ("id", pa.string()),
        ("prompt_hash", pa.string()),
        ("target_hash", pa.string()),
        ("prompt", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("answers", pa.string()),
        ("value", pa.float64()),
    ]
)
"""A row per sample and metric: `id` is the document's number and hash, `prompt` what was asked, with `choices` where
the likelihoods of continuations are, `answers` what the model gave as JSON, `value` null where the harness keeps no
number for a single sample."""
COMPARES: Mapping[str, By] = {"acc": "whole", "acc_norm": "character", "acc_bytes": "byte"}
"""By what metrics of multiple choice compare the choices, of those that do."""
_SAME = 1e-9
"""How far the mean over samples may lie from the harness's own figure where both are the same metric."""


def run_tasks(
    model: Any, tokenizer: Any, parts: Mapping[str, tuple[Part, int | None]], batch_size: int, seed: int, folder: Path
) -> dict[str, Any]:
    """Evaluate the tasks of `parts` (with the number of documents at most), write their rows and document.

    Returns the document: per part the task's version, the digest of its config, the harness's own figures.

    Raises:
        InputError: a task that does not exist, or data that cannot be loaded.
    """
    from lm_eval import simple_evaluate  # type: ignore[import-untyped]
    from lm_eval.models.huggingface import HFLM  # type: ignore[import-untyped]
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    with _quiet():
        # The harness gives a tokenizer the padding token that it wants: not to the one that other steps share.
        wrapped = HFLM(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)
    manager = TaskManager(include_defaults=not all(part.is_task_file for part, _ in parts.values()))
    rows: list[dict[str, Any]] = []
    document: dict[str, Any] = {}
    for name, (part, limit) in parts.items():
        asked = _task(part, manager)
        try:
            with TemporaryDirectory() as cache, _quiet():
                if part.is_task_file:  # `datasets` knows a cached file by its name and date, we by its content
                    asked["dataset_kwargs"]["cache_dir"] = cache
                found = simple_evaluate(
                    model=wrapped, tasks=[asked], task_manager=manager, limit=limit, log_samples=True,
                    bootstrap_iters=0, batch_size=batch_size, random_seed=seed, numpy_random_seed=seed,
                    torch_random_seed=seed, fewshot_random_seed=seed,
                )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())[:300]
            raise InputError(
                f"the task {asked['task']} cannot be run ({type(error).__name__}: {said}); check the task, and that "
                "its data is in the hub's local cache"
            ) from None
        assert found is not None
        task = asked["task"]
        rows += [row for sample in found["samples"][task] for row in _rows(name, task, sample)]
        config = json.loads(json.dumps(found["configs"][task], default=str))
        document[name] = {
            "task": task,
            "version": found["versions"].get(task),
            "config_sha256": sha256_text(canonical_json(_portable(config))),
            "few_shot": found["n-shot"].get(task),
            "samples": found["n-samples"][task],
            "results": {key: value for key, value in found["results"][task].items() if _is_number(value)},
            "higher_is_better": found["higher_is_better"].get(task, {}),
        }
    write_parquet(pa.Table.from_pylist(rows, schema=HARNESS_SCHEMA), folder / ROWS)
    (folder / DOCUMENT).write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return document


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's tables, bars and remarks on how it was called; what fails is raised all the same."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            yield
    finally:
        log.setLevel(level)


def _task(part: Part, manager: Any) -> dict[str, Any]:
    """The task as a config: a file's own, or a known task with its dataset held at the part's revision."""
    if part.is_task_file:
        return read_task(Path(str(part.task)))
    if part.task not in manager.all_subtasks:
        raise InputError(
            f"lm-evaluation-harness has no single task '{part.task}'; `lm_eval ls tasks` lists them (a group is "
            "written as one part for each of its tasks)"
        )
    written = manager.task_index[part.task].cfg or {}
    kwargs = {**(written.get("dataset_kwargs") or {}), "revision": part.revision}
    return {"task": part.task, "dataset_kwargs": kwargs}


def _rows(part: str, task: str, sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    prompt, choices = asked_by(sample["arguments"])
    return [
        {
            "part": part, "task": task, "metric": metric, "filter": sample["filter"],
            "id": f"{sample['doc_id']}-{sample['doc_hash'][:16]}", "prompt_hash": sample["prompt_hash"],
            "target_hash": sample["target_hash"], "prompt": prompt, "choices": choices,
            "answers": json.dumps(sample["filtered_resps"], default=str, ensure_ascii=False),
            "value": float(sample[metric]) if _is_number(sample[metric]) else None,
        }
        for metric in sample["metrics"]
    ]  # fmt: skip


def asked_by(requests: Sequence[Sequence[Any]]) -> tuple[str, list[str]]:
    """The prompt and the choices of a sample from the arguments of its requests: context, then continuation.

    Where the contexts differ (WinoGrande puts the choices into them), what they share is the prompt. Requests without a
    context beside some that have one only measure how likely a choice is anyway.
    """
    given = [each for each in requests if each[0]] or requests
    contexts = [str(each[0]) for each in given]
    ends = [each[1] if len(each) > 1 and isinstance(each[1], str) else "" for each in given]
    first, last = min(contexts), max(contexts)  # what these two share, all share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    prompt = first if first == last else first[: first.rfind(" ", 0, shared) + 1]
    choices = [context[len(prompt) :] + end for context, end in zip(contexts, ends, strict=True)]
    return prompt, choices if any(choices) else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _portable(config: Any) -> Any:
    """A config without where its files lie: their content stands for that in the fingerprint."""
    if isinstance(config, dict):
        return {
            key: _portable(value) for key, value in config.items() if key not in ("data_files", "cache_dir", "metadata")
        }
    return config


def documents_of(rows: Iterable[Mapping[str, Any]]) -> list[Prompt]:
    """The documents behind rows of a task as they were asked, in their order, each named in place of a source."""
    found = {
        row["id"]: Prompt(
            row["id"], (("user", row["prompt"]),), choices=tuple(row["choices"]),
            source=f"document {_number(row['id'])} of {row['task']}",
        )
        for row in rows
    }  # fmt: skip
    return sorted(found.values(), key=lambda prompt: _number(prompt.id))


def _number(document: str) -> int:
    return int(document.split("-")[0])


def answers_of(rows: Iterable[Mapping[str, Any]]) -> list[Completion]:
    """What a model gave to the documents of a task: an answer, or log-likelihoods of choices; anything else as the
    harness wrote it. Of several filters the first counts."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(row["id"], row)
    return [_answer(row) for row in first.values()]


def _answer(row: Mapping[str, Any]) -> Completion:
    plain, count = Completion.without_answer(row["id"]), len(row["choices"])
    given = json.loads(row["answers"])
    if count > 1 and all(isinstance(each, list) and len(each) == 2 for each in given):
        return replace(plain, choice_loglik=tuple(float(loglik) for loglik, _ in given[:count]))
    alone = len(given) == 1 and isinstance(given[0], str)
    return replace(plain, text=given[0] if alone else row["answers"])


def task_figures(
    parts: Sequence[str], rows: Mapping[str, Sequence[Mapping[str, Any]]], documents: Mapping[str, Mapping[str, Any]]
) -> tuple[list[dict[str, Any]], list[Figure], list[dict[str, Any]]]:
    """Samples and figures of tasks, `rows` and `documents` by subject.

    A metric that is the mean of its samples is a figure with the project's interval and paired differences; any other
    is returned as a plain row with the harness's own value and no interval.
    """
    samples: list[dict[str, Any]] = []
    figures: list[Figure] = []
    plain: list[dict[str, Any]] = []
    for part in parts:
        of_part = {subject: [row for row in found if row["part"] == part] for subject, found in rows.items()}
        first = next(iter(documents.values()))[part]
        for key in first["results"]:
            metric, _, filtered = key.partition(",")
            if metric.endswith("_stderr") or not filtered:
                continue
            name = metric if filtered == "none" else f"{metric} ({filtered})"
            better = {True: "higher", False: "lower"}.get(first["higher_is_better"].get(metric), "depends")
            source = f"lm-eval {first['task']}" + (f" v{first['version']}" if _is_number(first["version"]) else "")
            judged: dict[str, dict[str, tuple[float, ...]]] = {}
            for subject, found in of_part.items():
                mine = [row for row in found if (row["metric"], row["filter"]) == (metric, filtered)]
                judged[subject] = {row["id"]: (row["value"],) for row in mine if row["value"] is not None}
                samples += [
                    {"subject": subject, "part": part, "metric": name, "source": source, "id": row["id"], "group": "",
                     "value": row["value"]}
                    for row in mine
                ]  # fmt: skip
            own = {subject: documents[subject][part]["results"][key] for subject in judged}
            if all(values and _is_mean(values, own[subject]) for subject, values in judged.items()):
                asked = {name: "" for values in judged.values() for name in values}
                shares = {value for values in judged.values() for (value,) in values.values()} <= {0.0, 1.0}
                figures.append(
                    Figure(
                        part, name, source, "share" if shares else "plain", better, f"{metric} of {first['task']}",
                        first["samples"]["effective"], asked, judged,
                    )
                )  # fmt: skip
            else:
                plain += [
                    {"subject": subject, "part": part, "metric": name, "source": source, "unit": "plain",
                     "better": better, "meaning": f"{metric} of {first['task']}, without an interval",
                     "value": value, "n": first["samples"]["effective"], "unscored": 0}
                    for subject, value in own.items()
                ]  # fmt: skip
    return samples, figures, plain


def _is_mean(values: Mapping[str, tuple[float, ...]], stated: float) -> bool:
    return abs(sum(value for (value,) in values.values()) / len(values) - stated) <= _SAME
