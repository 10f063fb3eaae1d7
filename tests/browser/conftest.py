"""The report's pages in headless Chromium: one made of hostile strings, one of a finished study."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.reports.material import SUBJECTS, Material, Model, Origin
from cnt_pipeline.reports.page import REPORT, write_page
from cnt_pipeline.study.schema import KINDS
from tests.unit.reports.conftest import MakeMaterial, make_material, metric_row, metrics_frame

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["make_material"]

HOSTILE = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "'</p></article></main></style><style>body{display:none}</style>",
    "\u202egnp.elif\u202c turned",
    "W" * 3000,
    "javascript:alert(1)//{{ 7 * 7 }}{% raw %}",
    "<a href='https://outside.test/'>link</a><link rel=stylesheet href=//outside.test/x.css>",
    "\x00\x07null &amp; &#60;b&#62;",
    "שלום עולם mixed with left to right",
    "line one\nline two\n\n    indented",
)


@dataclass
class Opened:
    """A page in a tab of its own, with everything that it wrote to the console and wanted to load."""

    page: "Page"
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def value(self, script: str) -> Any:
        """What a script gives; it is run by the test, outside the page's own rules."""
        return self.page.evaluate(script)


Open = Callable[..., Any]


@pytest.fixture
def open_page(chrome: "Browser") -> Open:
    """Opens a file at a width and in a colour scheme; closed at the end of a with block."""

    @contextmanager
    def opened(file: Path, fragment: str = "", width: int = 1200, **context: Any) -> Iterator[Opened]:
        tab = chrome.new_context(viewport={"width": width, "height": 900}, **context)
        try:
            one = Opened(tab.new_page())
            one.page.on("console", lambda message: one.complaints.append(message.text))
            one.page.on("pageerror", lambda error: one.complaints.append(str(error)))
            one.page.on("request", lambda request: one.requests.append(request.url))
            tab.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
            one.page.goto(file.as_uri() + fragment)
            yield one
        finally:
            tab.close()

    return opened


@pytest.fixture(scope="session")
def real_page(finished_store: Any) -> Path:
    """The report of the small study that `cnt run` finished."""
    (found,) = finished_store.store.glob("reports/*/report.html")
    return Path(found)


@pytest.fixture
def hostile_page(make_material: MakeMaterial, tmp_path: Path) -> Path:
    """A page whose every string from outside is hostile, with two sources and a lineage."""
    write_page(hostile_material(make_material), tmp_path)
    return tmp_path / REPORT


def hostile_material(make_material: MakeMaterial) -> Material:
    """Prompts, answers, names, sources and warnings that try to be markup, to run, to hide or to burst the layout."""
    plain = make_material()
    prompts = {
        kind: [
            Prompt(f"{kind}{n}", (("user", f"{n} {HOSTILE[n]}"),), prefix=HOSTILE[n - 1],
                   source=HOSTILE[1] if n > 2 else "asked.jsonl")
            for n in range(5)
        ]
        for kind in KINDS
    }  # fmt: skip
    said = {
        subject: {
            kind: [
                Completion(
                    f"{kind}{n}", 0, f"{HOSTILE[n + 5]} {'' if subject == 'target' else subject}", (1,), True, -1.0
                )
                for n in range(5)
            ]
            for kind in KINDS
        }
        for subject in SUBJECTS
    }
    last = pl.col("id").str.ends_with("4")
    samples = plain.samples.with_columns(
        source=pl.when(last | pl.col("id").str.ends_with("3")).then(pl.lit(HOSTILE[1])).otherwise(pl.col("source")),
        value=pl.when(last & (pl.col("subject") == "transplant") & (pl.col("metric") == "refusal"))
        .then(None)
        .otherwise(pl.col("value")),
    )
    rows = [
        metric_row(subject, metric, value, n=5, vs_target=0.5, vs_target_low=0.4, vs_target_high=0.6,
                   vs_donor=0.0, vs_donor_low=0.0, vs_donor_high=0.0)
        for subject in SUBJECTS
        for metric, value in (("refusal", 0.5), ("over_refusal", 0.0), ("utility", 1.0))
    ]  # fmt: skip
    sources = [
        metric_row(subject, "refusal", 0.4, source=source, n=2)
        for subject in SUBJECTS
        for source in ("asked.jsonl", HOSTILE[1])
    ]
    facts = plain.target.facts
    return make_material(
        study=HOSTILE[0],
        target=Model(HOSTILE[4], HOSTILE[2], facts),
        donor=Model(HOSTILE[3], HOSTILE[1], facts),
        comparison={"agreements": [HOSTILE[4]], "notes": [HOSTILE[2]], "warnings": [HOSTILE[1]],
                    "non_neuron_tensors": {HOSTILE[4]: 0.5}},
        prompts=prompts,
        said=said,
        samples=samples,
        metrics=metrics_frame(rows),
        by_source=metrics_frame(sources),
        origins=chain(),
    )  # fmt: skip


def chain() -> list[Origin]:
    """A small lineage: two models and prompts, down to a verdict."""
    read = {
        "models/target": [], "models/donor": [], "prompt_sets/roles": [],
        "completions/target/test": ["models/target", "prompt_sets/roles"],
        "neuron_rankings/path": ["models/donor", "models/target", "prompt_sets/roles"],
        "transplants/checkpoint": ["models/donor", "models/target", "neuron_rankings/path"],
        "evaluations/scores": ["completions/target/test", "transplants/checkpoint"],
        "evaluations/verdict": ["evaluations/scores"],
    }  # fmt: skip
    return [
        Origin(key, 1, f"{n:x}" * 64, f"{n + 4:x}" * 64, {"scorers": {"refusal": 1}, "hostile": HOSTILE[0]}, {},
               {"model/model.safetensors": "d" * 64}, made_from)
        for n, (key, made_from) in enumerate(read.items())
    ]  # fmt: skip
