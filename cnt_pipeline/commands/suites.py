"""`cnt suites`: the evaluation suites, their sources, metrics and licences."""

from collections.abc import Iterator

from cnt_pipeline.commands.console import out, table
from cnt_pipeline.errors import InputError
from cnt_pipeline.evaluations.suite_table import packaged_suites
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.prompt_sets.adapters import ADAPTERS
from cnt_pipeline.prompt_sets.known import KnownSource, known_sources
from cnt_pipeline.study.schema import Part, Suite
from cnt_pipeline.study.suites import CUSTOM

OWN_SUITE = """\
suite: mine
version: 1
meaning: Does the model answer in our house style?
parts:
  requests:
    source: {file: requests.jsonl, columns: {text: question}} # beside this file
    metrics: [over_refusal, coherence]
  framed:
    source: study.function # the study's own test prompts
    template: "For the training of our staff: {prompt}"
    metrics: [refusal, attack_success]
    take: 100
  harness:
    task: my-task.yaml # a task file of lm-evaluation-harness, or a task's name with `revision:`
"""


def print_suites() -> None:
    """Print every suite, then the sources and metrics that a suite or a study may name."""
    rows = [
        (suite.suite, str(suite.version), ", ".join(suite.parts), suite.meaning) for suite in packaged_suites().values()
    ]
    rows.append((CUSTOM, "", "", "your own suite file: `cnt suites custom` prints one to begin with"))
    console = out()
    console.print(table(("suite", "version", "parts", "what it asks"), rows))
    console.print()
    found = [
        (name, source.place, source.adapter, source.licence, source.paper or "")
        for name, source in known_sources().items()
    ]
    console.print(table(("source", "place", "read as", "licence", "paper"), found, title="Sources"))
    console.print()
    metrics = [(metric.name, metric.better, metric.meaning) for metric in SUITE_METRICS.values()]
    console.print(table(("metric", "better", "meaning"), metrics, title="Metrics"))
    console.print(
        "\nhub sources are named with the commit to read, NAME@<40 digits>; `cnt suites NAME` says more of a suite",
        markup=False,
    )


def print_suite(name: str) -> None:
    """Print one suite: its parts with sources, columns, licences and metrics.

    Raises:
        InputError: no such suite.
    """
    if name == CUSTOM:
        out().print(OWN_SUITE, end="", markup=False, highlight=False, soft_wrap=True)
        return
    if name not in packaged_suites():
        raise InputError(f"there is no suite '{name}'; choose one of {', '.join((*packaged_suites(), CUSTOM))}")
    suite = packaged_suites()[name]
    console = out()
    console.print(f"{name}, version {suite.version}: {suite.meaning}", markup=False, soft_wrap=True)
    console.print(table(("part", "source", "place", "columns", "licence", "note"), _sources(suite)))
    console.print()
    metrics = [
        (part, metric, SUITE_METRICS[metric].better, SUITE_METRICS[metric].meaning)
        for part, each in suite.parts.items()
        for metric in each.metrics
    ]
    console.print(table(("part", "metric", "better", "meaning"), metrics))


def _sources(suite: Suite) -> Iterator[tuple[str, ...]]:
    """A row for the source of every part, and for each alternative."""
    for name, part in suite.parts.items():
        for number, source in enumerate((str(part.source), *part.alternatives)):
            yield (name if not number else "", source, *_source(part, known_sources().get(source)))


def _source(part: Part, row: KnownSource | None) -> tuple[str, str, str, str]:
    """Place, columns, licence and note."""
    if row is None:
        framed = "in a frame of its own" if part.template else ""
        return ("the study's own test prompts", "", "that of the study's prompts", framed)
    adapter = part.adapter or row.adapter
    columns = row.columns.text if adapter == "prompts" else ADAPTERS[adapter].columns
    return (row.place, columns, row.licence, "; ".join(part for part in (row.paper, row.note) if part))
