"""Safety dimensions in words: what was not asked, what was not judged, and rows edited twice are told apart."""

from typing import Any

from cnt_pipeline.reports.dimensions import progress, progress_note

from .test_leaderboard_page import figure


def document(shared: int = 0) -> dict[str, Any]:
    """Two dimensions; after the second the first could not be judged."""
    banks = {"after": "banks", "asked": ["traps", "banks"], "rows": 40, "figures": {"banks": figure(0.8)}}
    traps = {"after": "traps", "asked": ["traps"], "rows": 1200, "figures": {"traps": figure(0.9)}}
    steps = [{**traps, "shared": 0}, {**banks, "shared": shared}]
    both = {"traps": figure(0.1), "banks": figure(0.2)}
    return {"metric": "refusal", "direction": "add", "dimensions": ["traps", "banks"], "target": both, "donor": both,
            "entries": [{"entry": "fgsn", "method": "fgsn", "steps": steps}]}  # fmt: skip


def test_what_was_not_asked_is_a_dash_and_what_was_not_judged_is_said() -> None:
    (table,) = progress(document())
    assert table.columns == ("new rows", "traps", "banks")
    shown = {name: [cell.text.replace("\u00a0", " ") for cell in cells] for name, cells in table.rows}
    assert list(shown) == ["Target, before", "after traps", "after banks", "Donor"]
    assert shown["after traps"] == ["1,200", "90.0 %", "–"]
    assert shown["after banks"] == ["40", "not judged", "80.0 %"]
    assert shown["Target, before"] == ["–", "10.0 %", "20.0 %"]


def test_rows_that_two_dimensions_edited_are_told() -> None:
    assert "No row was edited for two dimensions." in progress_note(document())
    assert "3 rows were edited for more than one dimension" in progress_note(document(shared=3))


def test_a_study_without_dimensions_shows_nothing() -> None:
    assert progress(None) == () and progress_note(None) == ""
