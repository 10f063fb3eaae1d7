"""The graph's part that asks evaluation suites: per suite its prompts, what each model says, and the scores."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from cnt_pipeline import measures
from cnt_pipeline.errors import StudyError
from cnt_pipeline.evaluations.suite_table import ResolvedPart, ResolvedSuite, resolve_suites
from cnt_pipeline.pipeline.find_steps import PAIR, without_places
from cnt_pipeline.pipeline.step import Input, Step, model_input, pair, prompts_of, speech
from cnt_pipeline.prompt_sets.adapters import adapter_of
from cnt_pipeline.study.schema import TRAIN, Study

SUITE = "suite_"
SUITE_SUBJECTS = ("target", "donor", "transplant")
"""Models that are asked; the controls answer the test prompts alone."""
READ_BEFORE = "roles"
"""Input of a suite's prompts: what scoring, search and recipes read, which is left out."""
OWN_PROMPTS = "own"
"""Input of a suite's prompts: the study's test prompts, where a part asks them."""
HARNESS = "lm_eval"
"""Key of a slice: the version of lm-evaluation-harness."""


def suite_steps(study: Study) -> list[Step]:
    """The steps of every suite; none without suites.

    Raises:
        StudyError: as `resolve_suites`, or a task without lm-evaluation-harness.
    """
    return [step for suite in resolve_suites(study) for step in _steps_of(study, suite)]


def suite_prompts(key: str) -> str:
    """The step that gathers a suite's items."""
    return f"prompt_sets/{SUITE}{key}"


def suite_answers(subject: str, key: str) -> str:
    """The step in which a subject answers a suite."""
    return f"completions/{subject}_{SUITE}{key}/test"


def suite_harness(subject: str, key: str) -> str:
    """The step in which lm-evaluation-harness asks a subject a suite's tasks."""
    return f"evaluations/harness_{key}/{subject}"


def suite_scores(key: str) -> str:
    """The step that scores a suite."""
    return f"evaluations/{SUITE}{key}"


def _steps_of(study: Study, suite: ResolvedSuite) -> Iterator[Step]:
    named = {"suite": suite.suite.suite, "suite_version": suite.suite.version}
    inputs: dict[str, Input] = {}
    if suite.asked:
        yield _prompts(study, suite, named)
        inputs["prompts"] = Input(suite_prompts(suite.key))
        for subject in SUITE_SUBJECTS:
            inputs[subject] = Input(suite_answers(subject, suite.key))
            yield _answers(study, suite, subject)
    for subject in SUITE_SUBJECTS if suite.tasks else ():
        inputs[f"harness_{subject}"] = Input(suite_harness(subject, suite.key))
        yield _harness(study, suite, subject)
    yield Step(
        suite_scores(suite.key),
        "suites.score",
        {
            **named,
            "meaning": suite.suite.meaning,
            "parts": {part.name: [metric.name for metric in part.metrics] for part in suite.asked},
            "tasks": [part.name for part in suite.tasks],
            "scorers": {metric.name: metric.version for part in suite.asked for metric in part.metrics},
            "measures": measures.VERSION,
            "seed": study.seed,
        },
        inputs,
    )


def _prompts(study: Study, suite: ResolvedSuite, named: dict[str, Any]) -> Step:
    kinds = tuple(dict.fromkeys(part.kind for part in suite.asked if part.kind is not None))
    sources = tuple(part.source for part in suite.asked if part.source is not None)
    taught = study.models.taught_kinds()
    read = ("score.*.parquet", "selection.*.parquet", *(f"{TRAIN}.{kind}.parquet" for kind in taught))
    return Step(
        suite_prompts(suite.key),
        "suites.prompts",
        {**named, "parts": {part.name: _part_slice(part) for part in suite.asked}, "seed": study.seed},
        {
            READ_BEFORE: Input("prompt_sets/roles", read),
            **({OWN_PROMPTS: prompts_of("test", *kinds)} if kinds else {}),
        },
        external=sources or None,
    )


def _part_slice(part: ResolvedPart) -> dict[str, Any]:
    written = part.source.model_dump(mode="json", exclude_defaults=True) if part.source else {"kind": part.kind}
    return {
        "source": without_places(written),
        "adapter": [part.adapter, adapter_of(part.adapter).version],
        "template": part.part.template,
        "take": part.take,
    }


def _answers(study: Study, suite: ResolvedSuite, subject: str) -> Step:
    parts = {
        part.name: {
            "form": adapter_of(part.adapter).form,
            "needs": sorted({metric.needs for metric in part.metrics}),
            **({"max_new_tokens": part.part.max_new_tokens} if part.part.max_new_tokens else {}),
        }
        for part in suite.asked
    }
    return Step(
        suite_answers(subject, suite.key),
        "suites.answer",
        {**speech(study), "parts": parts},
        {**_models_of(subject), "prompts": Input(suite_prompts(suite.key))},
        after=(PAIR,),
    )


def _models_of(subject: str) -> dict[str, Input]:
    """The model that is asked, and the target, whose tokenizer all share."""
    if subject == "transplant":
        return {"target": model_input("target"), "checkpoint": Input("transplants/checkpoint", ("model/*",))}
    return pair() if subject == "donor" else {"target": model_input("target")}


def harness_version() -> str | None:
    """Version of the lm-evaluation-harness that is installed, None without it."""
    try:
        return version("lm-eval")
    except PackageNotFoundError:
        return None


def _harness(study: Study, suite: ResolvedSuite, subject: str) -> Step:
    installed = harness_version()
    if installed is None:
        raise StudyError(
            f"{study.file}:suites.{suite.key}: its task {suite.tasks[0].part.task} needs lm-evaluation-harness, which "
            "is not installed: run pip install 'cnt_pipeline[lm-eval]'"
        )
    return Step(
        suite_harness(subject, suite.key),
        "suites.harness",
        {
            HARNESS: installed,
            "tasks": {
                part.name: {
                    "task": None if part.part.is_task_file else part.part.task,
                    "revision": part.part.revision,
                    "limit": part.take,
                }
                for part in suite.tasks
            },
            "dtype": study.dtype,
            "seed": study.seed,
        },
        _models_of(subject),
        external=tuple(part.part for part in suite.tasks if part.part.is_task_file) or None,
        after=(PAIR,),
    )
