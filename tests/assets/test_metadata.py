"""What the UI says of compared methods and their leaderboard."""

import json
from pathlib import Path
from typing import Any

from assets import metadata
from cnt_pipeline.pipeline.run import Taken
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.reports.leaderboard import write_leaderboard_page
from cnt_pipeline.store import JSON, BuildRequest, Built, Store
from cnt_pipeline.study.schema import Accept
from tests.unit.reports.test_leaderboard_page import document


def told(folder: Path, key: str, files: dict[str, str], found: dict[str, JSON]) -> dict[str, Any]:
    """Metadata of an artifact with these files."""

    def build(where: Path) -> dict[str, JSON]:
        for name, text in files.items():
            (where / name).write_text(text, encoding="utf-8")
        return found

    request = BuildRequest(key, key.split("/")[0], 1, {}, {}, "mini")
    built: Built = Store(str(folder)).get_or_build(request, build)
    return metadata.of(Taken(Step(key, "transplants.edit", {}), built, request.fingerprint, "never built"))


def test_an_edit_tells_parameters_modules_and_cost(tmp_path: Path) -> None:
    found = {"parameters": 1200, "modules": 7, "cost": {"seconds": 1.5, "peak_memory": None}}
    shown = told(tmp_path, "transplants/compared_nlsr", {"edit.json": json.dumps({"tensors": {}})}, found)
    assert (shown["parameters"], shown["modules"]) == (1200, 7)
    assert shown["cost"].value == {"seconds": 1.5, "peak_memory": None}


def test_the_leaderboard_is_a_table_of_its_rows(tmp_path: Path) -> None:
    board = document()
    del board["rows"][3]["metrics"]["over_refusal"]
    shown = told(tmp_path, "evaluations/leaderboard", {"leaderboard.json": json.dumps(board)}, {})
    lines = shown["leaderboard"].value.splitlines()
    assert lines[0].startswith("|  | refusal | over_refusal | utility | recovery")
    assert "| nlsr | 0.900 | – | 0.880 | 0.900 | 12.00% |  |" in lines
    assert len(lines) == 2 + len(board["rows"])


def test_the_page_is_shown_with_its_table_and_path(tmp_path: Path) -> None:
    write_leaderboard_page("mini", document(), Accept(), tmp_path)
    files = {name: (tmp_path / name).read_text(encoding="utf-8") for name in ("leaderboard.html", "leaderboard.md")}
    shown = told(tmp_path / "store", "reports/leaderboard", files, {"front": []})
    assert "| **nlsr** (3 seeds" in shown["leaderboard"].value
    assert shown["page"].value.endswith("leaderboard.html") and Path(shown["page"].value).is_file()
