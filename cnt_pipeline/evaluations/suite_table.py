"""Suites by name: the packaged files, a user's own, and what a study makes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.measures.suite_metrics import SuiteMetric, suite_metric
from cnt_pipeline.prompt_sets.adapters import PROMPTS, adapter_of
from cnt_pipeline.prompt_sets.known import known_source
from cnt_pipeline.study.schema import KINDS, Kind, Part, PromptSource, Study, Suite, SuiteChoice
from cnt_pipeline.study.suites import CUSTOM

FOLDER = Path(__file__).with_name("suites")
OWN = "study."
"""How the study's own test prompts are named as a source."""


@dataclass(frozen=True)
class ResolvedPart:
    """A part with everything decided: a `source` read by `adapter`, or the study's own test prompts of `kind`, or a
    `task` of lm-evaluation-harness."""

    name: str
    part: Part
    adapter: str
    source: PromptSource | None
    kind: Kind | None
    take: int | None

    @property
    def metrics(self) -> tuple[SuiteMetric, ...]:
        """What is measured."""
        return tuple(suite_metric(name, self.name) for name in self.part.metrics)


@dataclass(frozen=True)
class ResolvedSuite:
    """A suite as one study asks it; `key` is what its steps are called."""

    key: str
    suite: Suite
    parts: tuple[ResolvedPart, ...]

    @property
    def asked(self) -> tuple[ResolvedPart, ...]:
        """Parts that this library asks itself."""
        return tuple(part for part in self.parts if part.part.task is None)

    @property
    def tasks(self) -> tuple[ResolvedPart, ...]:
        """Parts that lm-evaluation-harness asks."""
        return tuple(part for part in self.parts if part.part.task is not None)


@cache
def packaged_suites() -> Mapping[str, Suite]:
    """The suites that are shipped, by name."""
    suites = (Suite.model_validate(yaml.safe_load(path.read_text("utf-8"))) for path in sorted(FOLDER.glob("*.yaml")))
    return {suite.suite: suite for suite in suites}


def resolve_suites(study: Study) -> tuple[ResolvedSuite, ...]:
    """The study's suites, each with its changes applied.

    Raises:
        StudyError: a suite, part, source, adapter or metric that does not exist, or a hub dataset without its commit.
    """
    return tuple(_resolve(choice, f"{study.file}:suites.{choice.label}") for choice in study.suites)


def resolve_named(name: str) -> ResolvedSuite:
    """A packaged suite without changes.

    Raises:
        StudyError: no such suite.
    """
    return _resolve(SuiteChoice(suite=name), "suites")


def _resolve(choice: SuiteChoice, place: str) -> ResolvedSuite:
    if choice.file is not None:
        suite = read_suite(Path(choice.file))
    elif choice.suite in packaged_suites():
        suite = packaged_suites()[choice.suite]
    else:
        raise StudyError(
            f"{place}: there is no suite '{choice.suite}'; choose one of {', '.join(packaged_suites())}, or write "
            "{suite: custom, file: FILE}"
        )
    parts = {name: part for name, part in suite.parts.items() if choice.parts is None or name in choice.parts}
    sources = dict(choice.sources)
    if choice.source is not None:
        if len(parts) != 1:
            raise StudyError(
                f"{place}.source: the suite has the parts {', '.join(parts)}: write `sources: {{PART: ...}}`"
            )
        sources = dict.fromkeys(parts, choice.source)
    unknown = next((name for name in (*sources, *(choice.parts or ())) if name not in parts), None)
    if unknown is not None:
        raise StudyError(f"{place}: the suite has no part '{unknown}'; choose among {', '.join(suite.parts)}")
    resolved = []
    for name, part in parts.items():
        if part.task is not None and name in sources:
            raise StudyError(f"{place}.sources.{name}: a task brings its own prompts; remove the source")
        made = resolve_part(name, part, sources.get(name, part.source), f"{place}.{name}")
        resolved.append(replace(made, take=choice.take or part.take))
    return ResolvedSuite(choice.label, suite, tuple(resolved))


def resolve_part(name: str, part: Part, source: PromptSource | str | None, place: str) -> ResolvedPart:
    """A part that reads `source`. Errors as in `resolve_suites`; `place` is the study's key."""
    for metric in part.metrics:
        suite_metric(metric, place)
    kind, adapter = None, part.adapter or PROMPTS
    if isinstance(source, str) and source.startswith(OWN):
        kind = next((kind for kind in KINDS if source == f"{OWN}{kind}"), None)
        if kind is None:
            raise StudyError(f"{place}: '{source}' is none of {', '.join(OWN + kind for kind in KINDS)}")
        source = None
    try:
        if isinstance(source, str):
            row, source = known_source(source)
            adapter = part.adapter or row.adapter
        adapter_of(adapter)
    except InputError as error:
        raise StudyError(f"{place}: {error}") from None
    if part.template is not None and adapter != PROMPTS:
        raise StudyError(f"{place}: a template goes around plain prompts alone, and this source is read as {adapter}")
    return ResolvedPart(name, part, adapter, source, kind, part.take)


def read_suite(path: Path) -> Suite:
    """A user's suite file; relative paths in it are relative to it.

    Raises:
        StudyError: `file:key: reason`.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{path}: no such suite file; `cnt suites {CUSTOM}` shows one to begin with") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise StudyError(f"{path}: cannot be read as YAML ({said}); correct it") from None
    try:
        suite = Suite.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("<")) or "suite"
        raise StudyError(f"{path}:{key}: {fault['msg'].removeprefix('Value error, ')}") from None
    folder = path.resolve().parent
    return suite.model_copy(update={"parts": {name: _absolute(part, folder) for name, part in suite.parts.items()}})


def _absolute(part: Part, folder: Path) -> Part:
    if part.is_task_file:
        return part.model_copy(update={"task": str(folder / Path(str(part.task)).expanduser())})
    source = part.source
    if not isinstance(source, PromptSource) or source.file is None or source.package is not None:
        return part
    local = source.model_copy(update={"file": str(folder / Path(source.file).expanduser())})
    return part.model_copy(update={"source": local})
