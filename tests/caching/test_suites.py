"""Evaluation suites on the packaged models: adding one runs its own steps alone; what they find reaches the report."""

import gc
import json
import shutil
import weakref
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import polars as pl
import pytest
import yaml

from cnt_pipeline.commands.check import check_study
from cnt_pipeline.commands.query import run_query
from cnt_pipeline.completions.answers import read_answers
from cnt_pipeline.models.load import load_model
from cnt_pipeline.pipeline import context
from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.pipeline.run import take
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.items import read_items
from cnt_pipeline.prompt_sets.sources import PACKAGED
from cnt_pipeline.store import Artifact, Store
from cnt_pipeline.study.load import load_study
from tests.caching.conftest import Workshop

SUBJECTS = ("target", "donor", "transplant")
LIKELIHOODS = 1e-3
"""How far log-likelihoods may lie apart that were summed in other batches, as `cnt_pipeline.completions.items` says."""
TASK = {
    "task": "endings", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": "docs.jsonl"}},
    "test_split": "test", "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}",
    "doc_to_target": "{{a}}", "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    "metadata": {"version": 3},
}  # fmt: skip
OWN_SUITE = {
    "suite": "own", "version": 1, "meaning": "Do the parts work?",
    "parts": {
        "texts": {"source": {"file": "texts.jsonl"}, "adapter": "passages", "metrics": ["text_perplexity"]},
        "pairs": {"source": {"file": "pairs.jsonl"}, "adapter": "crows_pairs", "metrics": ["crows_pairs"]},
        "terms": {"source": {"file": "terms.jsonl"}, "adapter": "stereoset",
                  "metrics": ["stereoset_lms", "stereoset_ss", "stereoset_icat"]},
        "questions": {"source": {"file": "questions.jsonl"}, "adapter": "multiple_choice",
                      "metrics": ["multiple_choice"]},
    },
}  # fmt: skip


def steps_named(name: str) -> set[str]:
    said = {f"completions/{subject}_suite_{name}/test" for subject in SUBJECTS}
    return {f"prompt_sets/suite_{name}", *said, f"evaluations/suite_{name}", "reports/page"}


def write_own_suite(root: Path) -> None:
    texts = [json.loads(line)["text"] for line in (PACKAGED / "general.test.jsonl").read_text().splitlines()[:24]]
    ends = [" It is early.", " It is late.", " Stone cups swim."]
    rows = {
        "texts": [{"text": text} for text in texts],
        "pairs": [{"sent_more": a, "sent_less": b, "bias_type": "x"} for a, b in pairwise(texts)],
        "terms": [
            {"context": text, "target": f"t{i % 3}", "stereotype": ends[0], "anti-stereotype": ends[1],
             "unrelated": ends[2]}
            for i, text in enumerate(texts)
        ],
        "questions": [{"question": text, "choices": ["one", "two", "three"], "answer": i % 3}
                      for i, text in enumerate(texts)],
    }  # fmt: skip
    for name, listed in rows.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in listed))
    (root / "own.yaml").write_text(yaml.safe_dump(OWN_SUITE, sort_keys=False))


def add(workshop: Workshop, *suites: Any) -> None:
    workshop.edit(lambda study: study.update(suites=[*study.get("suites", []), *suites]))


@pytest.fixture(scope="session")
def with_jailbreak(finished: tuple[Workshop, dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The finished study with the jailbreak suite and a suite of its own, both run."""
    root = tmp_path_factory.mktemp("suites") / "copy"
    workshop = Workshop(Path(shutil.copytree(finished[0].root, root)))
    add(workshop, "jailbreak")
    assert workshop.built() == steps_named("jailbreak")
    write_own_suite(root)
    add(workshop, {"suite": "custom", "name": "own", "file": "own.yaml"})
    assert workshop.built() == steps_named("own")
    return workshop


@pytest.fixture
def workshop(with_jailbreak: Workshop, tmp_path: Path) -> Workshop:
    return Workshop(Path(shutil.copytree(with_jailbreak.root, tmp_path / "copy")))


def test_adding_a_suite_runs_its_own_steps_and_the_page(with_jailbreak: Workshop) -> None:
    """What the fixture built is checked as it is built; a second run builds nothing."""
    assert with_jailbreak.built() == set()


def test_a_new_metric_scores_again_without_asking_again(workshop: Workshop) -> None:
    suite = json.loads(json.dumps(OWN_SUITE))
    suite["parts"]["terms"]["metrics"] = ["stereoset_ss"]
    (workshop.root / "own.yaml").write_text(yaml.safe_dump(suite, sort_keys=False))
    assert workshop.built() == {"evaluations/suite_own", "reports/page"}


def test_a_file_laid_out_anew_stops_at_the_suites_prompts(workshop: Workshop) -> None:
    path = workshop.root / "pairs.jsonl"
    rows = [dict(reversed(json.loads(line).items())) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert workshop.built() == {"prompt_sets/suite_own", "reports/page"}


def test_take_asks_fewer_of_the_same_prompts(workshop: Workshop) -> None:
    before = {item.id for item in items(workshop, "own", "texts")}
    workshop.edit(lambda study: study["suites"][1].update(take=5))
    assert workshop.built() == steps_named("own")
    assert len(after := {item.id for item in items(workshop, "own", "texts")}) == 5 and after < before


def artifact(workshop: Workshop, key: str) -> Artifact:
    return workshop.run()[key].built.artifact


def items(workshop: Workshop, suite: str, part: str) -> list[Any]:
    return read_items(artifact(workshop, f"prompt_sets/suite_{suite}").path(f"{part}.parquet"))


def test_every_frame_holds_the_studys_own_test_prompts(with_jailbreak: Workshop) -> None:
    plain = items(with_jailbreak, "jailbreak", "plain")
    tested = [
        json.loads(line)["text"] for line in (with_jailbreak.root / "function.test.jsonl").read_text().splitlines()
    ]
    assert [item.text for item in plain] == tested
    for frame in ("prefix", "role_play", "suffix"):
        framed = items(with_jailbreak, "jailbreak", frame)
        assert all(text in item.text and text != item.text for text, item in zip(tested, framed, strict=True))


def test_metrics_hold_every_part_for_every_subject(with_jailbreak: Workshop) -> None:
    taken = with_jailbreak.run()
    table = pl.read_parquet(taken["evaluations/suite_jailbreak"].built.artifact.path("metrics.parquet"))
    assert set(table.select("part", "metric", "subject").rows()) == {
        (part, metric, subject)
        for part in ("plain", "prefix", "role_play", "suffix")
        for metric in ("refusal", "attack_success")
        for subject in SUBJECTS
    }
    scores = pl.read_parquet(taken["evaluations/scores"].built.artifact.path("metrics.parquet"))
    for subject in SUBJECTS:
        own = scores.filter(subject=subject, metric="refusal", source="")
        same = table.filter(subject=subject, metric="refusal", part="plain")
        assert own.select("value", "low", "high", "n").rows() == same.select("value", "low", "high", "n").rows()
    own = pl.read_parquet(taken["evaluations/suite_own"].built.artifact.path("metrics.parquet"))
    assert own["value"].is_not_null().all() and (own["low"] <= own["value"]).all()
    assert set(own["metric"]) == {name for part in OWN_SUITE["parts"].values() for name in part["metrics"]}


@pytest.mark.parametrize("batch_size", [1, 7])
def test_no_answer_hangs_on_the_batch_size_or_on_the_order_of_the_file(workshop: Workshop, batch_size: int) -> None:
    before = workshop.run()
    for name in (*OWN_SUITE["parts"], "function.test"):
        path = workshop.root / f"{name}.jsonl"
        lines = path.read_text().splitlines()
        Random(batch_size).shuffle(lines)
        path.write_text("".join(f"{line}\n" for line in lines))
    workshop.edit(lambda study: study["run"].update(batch_size=batch_size))
    study = load_study(workshop.study_file)
    fresh, models = Store(workshop.root / "fresh"), ModelPool(study)
    ready = {key: taken.built.artifact for key, taken in before.items()}
    for step in steps_of(study):
        if step.key == "prompt_sets/roles" or ("suite_" in step.key and not step.key.startswith("reports")):
            ready[step.key] = take(study, step, fresh, ready, models).built.artifact
    for name in ("own", "jailbreak"):
        for subject in SUBJECTS:
            key = f"completions/{subject}_suite_{name}/test"
            for file in sorted(ready[key].manifest.files):
                one, two = (
                    {row.id: row for row in read_answers(where[key].path(file))}
                    for where in ({key: before[key].built.artifact}, ready)
                )
                assert one.keys() == two.keys() and len(one) > 10
                for row in one:
                    a, b = one[row], two[row]
                    assert (a.text, a.token_ids, a.finished) == (b.text, b.token_ids, b.finished)
                    assert a.choice_tokens == b.choice_tokens
                    assert a.choice_loglik == pytest.approx(b.choice_loglik, abs=LIKELIHOODS)
                    assert a.loglik == pytest.approx(b.loglik, abs=LIKELIHOODS)
                    assert (a.answer_nll is None) == (b.answer_nll is None)
                    assert a.answer_nll is None or a.answer_nll == pytest.approx(b.answer_nll, abs=LIKELIHOODS)
        key = f"evaluations/suite_{name}"
        order = ["subject", "part", "metric", "id"]
        one, two = (
            pl.read_parquet(where.path("samples.parquet")).sort(order)
            for where in (before[key].built.artifact, ready[key])
        )
        assert one.select(order).equals(two.select(order))
        whole = pl.col("metric") != "text_perplexity"
        assert one.filter(whole)["value"].equals(two.filter(whole)["value"])
        assert (one["value"] - two["value"]).abs().max() < 1e-4


def test_a_task_of_the_harness_runs_on_every_subject_and_its_data_are_part_of_the_fingerprint(
    workshop: Workshop,
) -> None:
    pytest.importorskip("lm_eval")
    docs = [json.dumps({"q": f"word {i}", "c": ["one", "two"], "a": i % 2}) for i in range(9)]
    suite = {"suite": "tasked", "version": 1, "meaning": "?", "parts": {"endings": {"task": "task.yaml"}}}
    for name, document in (("task.yaml", TASK), ("tasked.yaml", suite)):
        (workshop.root / name).write_text(yaml.safe_dump(document))
    (workshop.root / "docs.jsonl").write_text("\n".join(docs))
    add(workshop, {"suite": "custom", "name": "tasked", "file": "tasked.yaml"})
    steps = {*(f"evaluations/harness_tasked/{who}" for who in SUBJECTS), "evaluations/suite_tasked", "reports/page"}
    taken = workshop.run()
    assert {key for key, each in taken.items() if not each.built.hit} == steps
    table = pl.read_parquet(taken["evaluations/suite_tasked"].built.artifact.path("metrics.parquet"))
    assert table.select("subject", "part", "metric", "n").rows() == [(who, "endings", "acc", 9) for who in SUBJECTS]
    assert table["low"].is_not_null().all() and set(table["source"]) == {"lm-eval endings v3"}
    page = taken["reports/page"].built.artifact.path("report.html").read_text()
    assert "lm-eval endings" in page
    assert "<b>word 3</b>" in page and "from document 3 of endings" in page and "“two” " in page
    assert workshop.built() == set()
    (workshop.root / "docs.jsonl").write_text("\n".join(docs[:-1]))
    assert workshop.built() == steps


def test_check_page_and_query_show_suites(with_jailbreak: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    check_study(with_jailbreak.study_file)
    said = capsys.readouterr().out
    assert "suite jailbreak, role_play: 16 prompts" in said and "suite own, pairs: 23 prompts" in said
    page = artifact(with_jailbreak, "reports/page").path("report.html").read_text()
    assert '<h2 id="suites">Suites</h2>' in page and "jailbreak version 1" in page and "own version 1" in page
    assert "StereoSet ICAT" in page and "Text perplexity" in page
    store = str(with_jailbreak.root / "store")
    sql = "select distinct part from suite_metrics where step = 'evaluations/suite_jailbreak' order by part"
    run_query(sql, store, "csv")
    assert capsys.readouterr().out.split() == ["part", "plain", "prefix", "role_play", "suffix"]
    run_query("select count(*) as rows from suite_samples where metric = 'crows_pairs'", store, "json")
    assert json.loads(capsys.readouterr().out) == [{"rows": 3 * 23}]


def test_the_transplant_is_loaded_once_for_all_suites_and_let_go_after_them(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, study = workshop.run(), load_study(workshop.study_file)
    loaded: list[Path] = []

    def load(folder: Path, **how: Any) -> Any:
        loaded.append(folder)
        return load_model(folder, **how)

    monkeypatch.setattr(context, "load_model", load)
    fresh, models = Store(workshop.root / "fresh"), ModelPool(study)
    ready = {key: each.built.artifact for key, each in taken.items()}
    checkpoint = ready["transplants/checkpoint"].folder() / "model"
    steps = {step.key: step for step in steps_of(study)}
    for key, step in steps.items():
        if "suite_" in key:
            take(study, step, fresh, ready, models)
    assert sorted(loaded) == sorted([checkpoint, models.folder("target"), models.folder("donor")])
    kept = weakref.ref(models.guest(checkpoint))
    assert len(loaded) == 3 and kept() is not None
    models.for_step(steps["reports/page"])
    gc.collect()
    assert kept() is None
