"""The Suites section: every figure for target, transplant and donor; nothing where a study has no suites."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from cnt_pipeline.evaluations.suite_score import SUITE_METRICS_SCHEMA, SUITE_SAMPLES_SCHEMA
from cnt_pipeline.reports.material import Material, SuiteFigures
from cnt_pipeline.reports.page import REPORT, write_page
from cnt_pipeline.reports.suites import suite_blocks

MakeMaterial = Callable[..., Material]


def row(subject: str, metric: str, unit: str, value: float | None, **more: Any) -> dict[str, Any]:
    known = {
        "subject": subject, "part": "first_part", "metric": metric, "source": "<made>.jsonl", "value": value,
        "low": value, "high": value, "n": 12, "unscored": 0, "unit": unit, "better": "higher", "meaning": "what it is",
    }  # fmt: skip
    return {**dict.fromkeys(SUITE_METRICS_SCHEMA.names), **known, **more}


def suite(*rows: dict[str, Any], left_out: int = 0) -> SuiteFigures:
    empty = pl.DataFrame(SUITE_METRICS_SCHEMA.empty_table())
    figures = pl.DataFrame(list(rows), schema=empty.schema)
    samples = pl.DataFrame(SUITE_SAMPLES_SCHEMA.empty_table())
    nothing: dict[str, Any] = {"first_part": {subject: [] for subject in ("target", "transplant", "donor")}}
    return SuiteFigures(
        "my_suite", "mine", 4, "Does it work?", figures, {"first_part": left_out}, samples, {"first_part": []}, nothing
    )


def test_figures_are_shown_in_their_units_with_the_paired_change(make_material: MakeMaterial, tmp_path: Path) -> None:
    change = {"vs_target": -0.25, "vs_target_low": -0.5, "vs_target_high": 0.125}
    rows = [
        row("target", "crows_pairs", "share", 0.75),
        row("transplant", "crows_pairs", "share", 0.5, unscored=3, **change),
        row("donor", "crows_pairs", "share", 0.25),
        row("target", "stereoset_icat", "percentage", 62.04),
        row("transplant", "bbq_bias_disambiguated", "score", None),
    ]
    material = make_material(suites=[suite(*rows, left_out=2)])
    ((block,),) = [[block.parts for block in suite_blocks(material)]]
    crows, icat, bbq = block[0].rows
    assert [cell.value for cell in crows.cells] == ["75.0\u00a0%", "50.0\u00a0%", "25.0\u00a0%"]
    assert (crows.cells[1].change, crows.cells[1].change_interval) == ("−25.0", "−50.0 to +12.5")
    assert crows.unscored == 3 and block[0].left_out == 2
    assert [cell.value for cell in icat.cells] == ["62.0", "not judged", "not judged"]
    assert [cell.value for cell in bbq.cells] == ["not judged", "undefined", "not judged"]
    write_page(material, tmp_path)
    page = (tmp_path / REPORT).read_text()
    for part in ("Suites", "My suite", "mine version 4", "Does it work?", "StereoSet ICAT", "2 prompts left out",
                 "3 not judged", "&lt;made&gt;.jsonl"):  # fmt: skip
        assert part in page


def test_a_study_without_suites_has_no_section(make_material: MakeMaterial, tmp_path: Path) -> None:
    write_page(make_material(), tmp_path)
    assert 'id="suites"' not in (tmp_path / REPORT).read_text()
