"""The Makefile's commands name studies that exist, and leave none out."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_every_study_has_a_target_that_runs_it() -> None:
    commands = re.findall(r"^\t\$\(BIN\)/cnt (run|compare)\b(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {word for _, arguments in commands for word in arguments.split()}
    assert all(arguments.split() for _, arguments in commands)
    assert named == {f"studies/{path.name}" for path in (ROOT / "studies").glob("*.yaml")}
