"""The two packaged studies, from a newcomer's command to the figures that the README promises."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.end_to_end.conftest import CNT, Shell, end

STUDIES = Path(__file__).parents[2] / "studies"
CONTROLS = ("control:random", "control:largest_delta")
Document = dict[str, Any]

IMPORTED = """
import sys
from cnt_pipeline.cli import app
try:
    app(sys.argv[1:])
finally:
    print("imported:", *sorted({"torch", "transformers"} & set(sys.modules)), file=sys.stderr)
"""


def figures(document: Document, metric: str) -> dict[str, dict[str, float]]:
    """The rows of a metric by subject."""
    return {row["subject"]: row for row in document["metrics"] if row["metric"] == metric}


def values(document: Document, metric: str) -> dict[str, float]:
    return {subject: row["value"] for subject, row in figures(document, metric).items()}


def states(document: Document, state: str) -> set[str]:
    return {step["key"] for step in document["steps"] if step["state"] == state}


@pytest.fixture(scope="module")
def refusal(shell: Callable[[str], Shell]) -> tuple[Shell, Document, dict[str, Any]]:
    """`quickstart.yaml`, interrupted in the middle and then run to the end."""
    place = shell("refusal")
    study = str(STUDIES / "quickstart.yaml")
    process = place.start("run", study, "--json")
    while not any(place.store.glob("completions/.*.building")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.5)
    kept = sorted(path.parent.name for path in place.store.glob("*/*/manifest.json"))
    code, err = end(process, signal.SIGINT)
    interrupted = {"code": code, "err": err, "kept": kept}
    return place, place.finish("run", study, "--json"), interrupted


@pytest.fixture(scope="module")
def bias(shell: Callable[[str], Shell]) -> tuple[Shell, Document]:
    """`quickstart-bias.yaml`, run to the end."""
    place = shell("bias")
    return place, place.finish("run", str(STUDIES / "quickstart-bias.yaml"), "--json")


def test_ctrl_c_ends_a_run_with_one_sentence_and_the_next_goes_on(
    refusal: tuple[Shell, Document, dict[str, Any]],
) -> None:
    _, document, interrupted = refusal
    assert interrupted["code"] == 130
    said = [line for line in interrupted["err"].splitlines() if line and not line.startswith(("built", "hit"))]
    assert len(said) == 1 and said[0].startswith("cnt: interrupted; finished steps are kept"), interrupted["err"]
    hits = {step["fingerprint"] for step in document["steps"] if step["state"] == "hit"}
    assert len(interrupted["kept"]) >= 4
    assert set(interrupted["kept"]) <= hits


def test_refusal_moves_to_the_target_and_nothing_else_does(refusal: tuple[Shell, Document, dict[str, Any]]) -> None:
    document = refusal[1]
    refused, missed, useful = (values(document, name) for name in ("refusal", "over_refusal", "utility"))
    assert document["verdict"] == "pass"
    assert refused["target"] <= 0.05
    assert refused["transplant"] >= 0.95 * refused["donor"]
    assert missed["transplant"] <= 0.01
    assert useful["transplant"] >= useful["target"] - 0.01
    assert document["transplant"]["share"] <= 0.12
    assert document["transplant"]["eta"] == 1


def test_bias_leaves_the_target_and_nothing_else_does(bias: tuple[Shell, Document]) -> None:
    document = bias[1]
    gap, wrong, useful = (values(document, name) for name in ("pronoun_gap", "lookalike_error", "utility"))
    assert document["verdict"] == "pass"
    assert gap["target"] - gap["transplant"] >= 0.9 * (gap["target"] - gap["donor"]) > 0
    assert wrong["transplant"] <= wrong["donor"] + 0.01
    assert useful["transplant"] >= useful["target"] - 0.01
    assert document["transplant"]["share"] <= 0.12
    assert document["transplant"]["eta"] == 1


def test_both_controls_are_clearly_worse(
    refusal: tuple[Shell, Document, dict[str, Any]], bias: tuple[Shell, Document]
) -> None:
    """Their intervals lie wholly on the target's side of the transplant's."""
    for control in CONTROLS:
        rows = figures(refusal[1], "refusal")
        assert rows[control]["high"] < rows["transplant"]["low"]
        rows = figures(bias[1], "pronoun_gap")
        assert rows[control]["low"] > rows["transplant"]["high"]


def test_the_documents_follow_the_printed_schema(
    refusal: tuple[Shell, Document, dict[str, Any]], bias: tuple[Shell, Document]
) -> None:
    schema = refusal[0].finish("schema", "run")
    for document in (refusal[1], bias[1]):
        jsonschema.validate(document, schema)
        assert Path(document["report"]).is_file()
        assert (Path(document["transplant"]["path"]) / "model.safetensors").is_file()


@pytest.mark.parametrize("study", ["quickstart", "quickstart-bias"])
def test_a_second_run_is_all_hits_and_loads_no_model(
    refusal: tuple[Shell, Document, dict[str, Any]], bias: tuple[Shell, Document], study: str
) -> None:
    place, first = refusal[:2] if study == "quickstart" else bias
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, "run", str(STUDIES / f"{study}.yaml"), "--json"],
        env=place.environment, cwd=place.root, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    second = json.loads(done.stdout)
    assert states(second, "built") == set()
    assert {s["key"]: s["digest"] for s in second["steps"]} == {s["key"]: s["digest"] for s in first["steps"]}
    assert done.stderr.splitlines()[-1] == "imported:"


def test_the_table_and_the_report_are_named_to_people(refusal: tuple[Shell, Document, dict[str, Any]]) -> None:
    place, document, _ = refusal
    done = subprocess.run(
        [CNT, "run", str(STUDIES / "quickstart.yaml")], env=place.environment, cwd=place.root, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for word in ("refusal", "transplant", "donor", "largest delta", "pass", document["report"]):
        assert word in done.stdout
    assert os.fspath(place.store) in done.stdout
