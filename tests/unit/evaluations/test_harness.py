"""Tasks of lm-evaluation-harness on the packaged models, offline, against plain forward passes."""

import builtins
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import yaml

import cnt_pipeline
from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.evaluations.harness import (
    COMPARES,
    DOCUMENT,
    ROWS,
    answers_of,
    asked_by,
    documents_of,
    run_tasks,
    task_figures,
)
from cnt_pipeline.evaluations.suite_score import figure_rows
from cnt_pipeline.evaluations.task_files import read_task, task_sources
from cnt_pipeline.measures.choices import compared
from cnt_pipeline.models.load import load_model, load_tokenizer
from cnt_pipeline.pipeline import suite_steps
from cnt_pipeline.study.schema import Part, Study

pytest.importorskip("lm_eval")
torch.set_num_threads(1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
TASK: dict[str, Any] = {
    "task": "cnt_pipeline_test",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 3},
}
DOCS = [
    {"question": f"the {animal} went to the", "choices": ["door", "garden of the town"], "answer": i % 2}
    for i, animal in enumerate(("cat", "dog", "bird", "baker", "farmer", "child", "horse"))
]


def write_task(folder: Path, **changes: Any) -> Part:
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in DOCS))
    (folder / "task.yaml").write_text(yaml.safe_dump({**TASK, **changes}))
    return Part(task=str(folder / "task.yaml"))


@pytest.fixture(scope="module")
def speaker() -> tuple[Any, Any]:
    folder = Path(cnt_pipeline.__file__).parent / "demo" / "models" / "helpful"
    return load_model(folder), load_tokenizer(folder)


def loglik(speaker: tuple[Any, Any], context: str, continuation: str) -> float:
    model, tokenizer = speaker
    whole = tokenizer(context + continuation, add_special_tokens=False)["input_ids"]
    start = len(tokenizer(context, add_special_tokens=False)["input_ids"])
    with torch.inference_mode():
        scores = model(torch.tensor([whole])).logits[0].float().log_softmax(-1)
    return sum(float(scores[place - 1, whole[place]]) for place in range(start, len(whole)))


def test_a_local_task_gives_the_accuracy_of_plain_forward_passes(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    document = run_tasks(*speaker, {"own": (write_task(tmp_path), None)}, 4, 0, tmp_path)["own"]
    rights = []
    for doc in DOCS:
        scores = [loglik(speaker, doc["question"], f" {choice}") for choice in doc["choices"]]
        rights.append(float(scores.index(max(scores)) == doc["answer"]))
    rows = pl.read_parquet(tmp_path / ROWS).sort("id")
    assert rows["value"].to_list() == rights and set(rows["metric"]) == {"acc"}
    assert document["results"]["acc,none"] == pytest.approx(sum(rights) / len(rights))
    assert (document["version"], document["samples"]["effective"]) == (3, len(DOCS))
    assert rows["prompt_hash"].n_unique() == len(DOCS)
    assert json.loads((tmp_path / DOCUMENT).read_text())["own"] == document


def test_rows_hold_what_was_asked_and_what_each_metric_compares(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    listed = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in COMPARES]
    docs = [{**doc, "choices": ["door", "gar" * (1 + i % 3), "é" * (1 + i)]} for i, doc in enumerate(DOCS)]
    part = write_task(tmp_path, metric_list=listed)
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    run_tasks(*speaker, {"own": (part, None)}, 4, 0, tmp_path)
    rows = pl.read_parquet(tmp_path / ROWS).to_dicts()
    values = {(row["id"], row["metric"]): row["value"] for row in rows}
    prompts, answers = documents_of(rows), {answer.id: answer for answer in answers_of(rows)}
    assert [prompt.text for prompt in prompts] == [doc["question"] for doc in docs]
    assert [prompt.source for prompt in prompts] == [f"document {i} of {TASK['task']}" for i in range(len(docs))]
    picked: dict[str, list[int]] = {}
    for prompt, doc in zip(prompts, docs, strict=True):
        assert [choice.removeprefix(" ") for choice in prompt.choices] == doc["choices"]
        said = [loglik(speaker, doc["question"], choice) for choice in prompt.choices]
        assert answers[prompt.id].choice_loglik == pytest.approx(said, abs=1e-3) and answers[prompt.id].text == ""
        for metric, by in COMPARES.items():
            quantities = compared(by, prompt, answers[prompt.id])
            picked.setdefault(metric, []).append(quantities.index(max(quantities)))
            assert values[prompt.id, metric] == float(picked[metric][-1] == doc["answer"])
    assert len({tuple(each) for each in picked.values()}) > 1  # what they compare does differ


def test_an_answer_in_words_is_kept_as_it_is_and_the_first_filter_counts() -> None:
    row = {"id": "10-ab", "task": "sums", "prompt": "What is 2 + 2?", "choices": [], "answers": '["4"]'}
    other = {**row, "id": "9-cd", "answers": "[[-1.5, true]]", "choices": [" four"]}
    rows = [row, {**row, "answers": '["[invalid]"]'}, other]
    assert [(prompt.id, prompt.choices) for prompt in documents_of(rows)] == [("9-cd", (" four",)), ("10-ab", ())]
    assert [(each.text, each.choice_loglik) for each in answers_of(rows)] == [("4", ()), ("[[-1.5, true]]", ())]


@pytest.mark.parametrize(
    ("requests", "asked"),
    [
        ([("The cat", " sat"), ("The cat", " ran")], ("The cat", [" sat", " ran"])),
        ([("It beat Sam as Sam", " slept"), ("It beat Sam as Sue", " slept")],
         ("It beat Sam as ", ["Sam slept", "Sue slept"])),
        ([("Sam", " slept"), ("Sam and Sue", " slept")], ("", ["Sam slept", "Sam and Sue slept"])),
        ([("Say", " a"), ("Say", " b"), ("", " a"), ("", " b")], ("Say", [" a", " b"])),
        ([("", " a"), ("", " b")], ("", [" a", " b"])),
        ([("What is it?", {"until": ["."]})], ("What is it?", [])),
        ([("a whole text",)], ("a whole text", [])),
    ],
)  # fmt: skip
def test_what_was_asked_is_read_from_the_requests(requests: list[Any], asked: tuple[str, list[str]]) -> None:
    assert asked_by(requests) == asked


def test_the_same_task_elsewhere_has_the_same_digest_and_rows(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    found = []
    for name, size in (("one", 1), ("two", 7)):
        folder = tmp_path / name
        folder.mkdir()
        run_tasks(*speaker, {"own": (write_task(folder), None)}, size, 0, folder)
        found.append((json.loads((folder / DOCUMENT).read_text()), pl.read_parquet(folder / ROWS)))
    (one, first), (two, second) = found
    assert one == two
    columns = ["id", "metric", "prompt_hash", "target_hash", "prompt", "choices", "value"]
    assert first.select(columns).equals(second.select(columns))


def test_a_changed_task_has_another_digest_and_a_limit_asks_fewer(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    one = run_tasks(*speaker, {"own": (write_task(tmp_path), None)}, 4, 0, tmp_path)["own"]
    two = run_tasks(
        *speaker, {"own": (write_task(tmp_path, doc_to_text="{{question}} very"), 3)}, 4, 0, tmp_path
    )["own"]  # fmt: skip
    assert one["config_sha256"] != two["config_sha256"] and two["samples"]["effective"] == 3


def test_figures_of_a_task_have_intervals_and_paired_differences(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    document = run_tasks(*speaker, {"own": (write_task(tmp_path), None)}, 4, 0, tmp_path)
    rows = pl.read_parquet(tmp_path / ROWS).to_dicts()
    other = [{**row, "value": 1.0} for row in rows]
    perfect = json.loads(json.dumps(document))
    perfect["own"]["results"]["acc,none"] = 1.0
    samples, figures, plain = task_figures(
        ["own"], {"target": rows, "transplant": other}, {"target": document, "transplant": perfect}
    )
    (figure,) = figures
    by_subject = {row["subject"]: row for row in figure_rows(figure, 0)}
    right = sum(row["value"] for row in rows) / len(rows)
    assert by_subject["target"]["value"] == pytest.approx(right) and by_subject["target"]["low"] < right
    assert by_subject["transplant"]["vs_target"] == pytest.approx(1 - right)
    assert len(samples) == 2 * len(DOCS) and plain == [] and figure.better == "higher"


def test_a_metric_that_is_no_mean_of_samples_is_kept_without_an_interval() -> None:
    document = {"task": "t", "version": 1, "results": {"f1,none": 0.4}, "higher_is_better": {"f1": True},
                "samples": {"effective": 1}}  # fmt: skip
    row = {"part": "own", "metric": "f1", "filter": "none", "id": "0", "value": None}
    _, figures, plain = task_figures(["own"], {"target": [row]}, {"target": {"own": document}})
    assert figures == [] and plain[0]["value"] == 0.4 and "low" not in plain[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dataset_path": "org/data", "dataset_kwargs": {}}, "the hub dataset org/data, which can move"),
        ({"dataset_kwargs": {}}, "reads local data but names none"),
        ({"include": "other.yaml"}, "includes another file"),
        ({"task": None}, "no task of lm-evaluation-harness"),
    ],
)
def test_a_task_file_that_no_digest_covers_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_task(Path(str(write_task(tmp_path, **changes).task)))


def test_a_task_file_with_functions_is_refused(tmp_path: Path) -> None:
    part = write_task(tmp_path)
    path = Path(str(part.task))
    path.write_text(path.read_text() + "process_docs: !function utils.process_docs\n")
    with pytest.raises(InputError, match="a task that calls functions is named by its name"):
        read_task(path)


def test_the_digest_of_a_task_covers_its_data(tmp_path: Path) -> None:
    files = [Path(str(source.file)) for source in task_sources(write_task(tmp_path))]
    assert files == [tmp_path / "task.yaml", tmp_path / "docs.jsonl"]


def test_a_task_by_its_name_needs_the_revision_of_its_dataset() -> None:
    with pytest.raises(ValueError, match="add `revision:` with the dataset's full 40-digit commit hash"):
        Part(task="arc_easy")
    assert Part(task="arc_easy", revision=COMMIT).revision == COMMIT


def test_an_unknown_task_is_one_sentence(speaker: tuple[Any, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no single task 'arc_eazy'"):
        run_tasks(*speaker, {"own": (Part(task="arc_eazy", revision=COMMIT), None)}, 4, 0, tmp_path)


def test_without_the_extra_the_study_is_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_task(tmp_path)
    suite = {"suite": "own", "version": 1, "meaning": "?", "parts": {"t": {"task": "task.yaml"}}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(suite))
    study = Study.model_validate(
        {
            "study": "s", "function": {"name": "refusal"}, "models": {"target": {"path": "t"}, "donor": {"path": "d"}},
            "prompts": {"function": {"file": "f"}, "lookalike": {"file": "l"}, "utility": {"file": "u"}},
            "suites": [{"suite": "custom", "file": str(tmp_path / "own.yaml"), "name": "own"}],
        }
    )  # fmt: skip
    keys = [step.key for step in suite_steps.suite_steps(study)]
    assert keys == [*(f"evaluations/harness_own/{who}" for who in ("target", "donor", "transplant")),
                    "evaluations/suite_own"]  # fmt: skip

    def absent(name: str) -> str:
        raise suite_steps.PackageNotFoundError(name)

    monkeypatch.setattr(suite_steps, "version", absent)
    with pytest.raises(StudyError, match=r"needs lm-evaluation-harness.*pip install 'cnt_pipeline\[lm-eval\]'"):
        suite_steps.suite_steps(study)


def test_planning_a_task_does_not_import_the_harness(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def guarded(name: str, *rest: Any, **more: Any) -> Any:
        assert not name.startswith("lm_eval")
        return real(name, *rest, **more)

    part = write_task(tmp_path)
    monkeypatch.setattr(builtins, "__import__", guarded)
    assert len(list(task_sources(part))) == 2
