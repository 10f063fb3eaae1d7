"""Safety dimensions worked one after the other on the packaged models: new rows each time, earlier work kept."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_weights

from cnt_pipeline.commands.check import check_study
from cnt_pipeline.commands.compare import compare_methods
from cnt_pipeline.pipeline.chain import Chain
from cnt_pipeline.pipeline.compare_steps import LEADERBOARD_PAGE
from cnt_pipeline.pipeline.dimension_steps import DIMENSIONS, MASKS
from cnt_pipeline.pipeline.documents import LeaderboardDocument
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.prompt_sets.sources import PACKAGED
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from tests.caching.conftest import Workshop, write_study

THINGS = {"traps": ("trap.", "trap?"), "banks": ("bank.", "bank?"), "towers": ("tower.", "tower?")}


def take(workshop: Workshop) -> tuple[Chain, set[str]]:
    """Everything that the leaderboard's page needs; the chain, and the steps that had to be built."""
    study, store = load_study(workshop.study_file), Store(workshop.root / "store")
    steps = needed_for([LEADERBOARD_PAGE], steps_of(study))
    chain = Chain(study, store, steps=steps)
    return chain, {step.key for step in steps if not chain.take(step.key).built.hit}


def listed(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "prompts": {"file": f"{name}.jsonl"}} for name in names]


@pytest.fixture(scope="session")
def two_dimensions(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A finished comparison with the dimensions traps and banks."""
    workshop = write_study(tmp_path_factory.mktemp("dimensions"))
    rows = [
        line for split in ("score", "test") for line in (PACKAGED / f"harmful.{split}.jsonl").read_text().splitlines()
    ]
    for name, ends in THINGS.items():
        chosen = [row for row in rows if json.loads(row)["text"].endswith(ends)]
        (workshop.root / f"{name}.jsonl").write_text("\n".join(chosen) + "\n")
    workshop.edit(
        lambda study: (
            study["models"].update(base={"package": "cnt_pipeline", "file": "demo/models/base"}),
            study.update(compare={"methods": ["fgsn"], "dimensions": listed("traps", "banks")}),
        )
    )
    take(workshop)
    return workshop


@pytest.fixture
def workshop(two_dimensions: Workshop, tmp_path: Path) -> Workshop:
    return Workshop(Path(shutil.copytree(two_dimensions.root, tmp_path / "copy")))


def test_a_second_run_builds_nothing(workshop: Workshop) -> None:
    assert take(workshop)[1] == set()


def test_a_dimension_added_at_the_end_runs_its_own_steps_the_table_and_the_page(workshop: Workshop) -> None:
    workshop.edit(lambda study: study["compare"].update(dimensions=listed("traps", "banks", "towers")))
    chain, built = take(workshop)
    assert built == {
        "prompt_sets/dimension_towers", "completions/donor_on_towers/score", "completions/donor_on_towers/test",
        "completions/target_on_towers/test", "activation_caches/moments_on_towers/donor",
        "activation_caches/hidden_state_on_towers/donor", "transplants/compared_fgsn/towers",
        *(f"completions/compared_fgsn_after_towers_on_{name}/test" for name in THINGS),
        DIMENSIONS, LEADERBOARD_PAGE,
    }  # fmt: skip
    masks = [load_file(chain.artifact(f"transplants/compared_fgsn/{name}").path(MASKS)) for name in THINGS]
    assert all(sum(int(mask.sum()) for mask in each.values()) for each in masks)
    for at, mine in enumerate(masks):
        for other in masks[:at]:
            assert not any((mine[name] & other[name]).any() for name in mine.keys() & other.keys())


def test_another_prompt_of_the_last_dimension_leaves_the_first_alone(workshop: Workshop) -> None:
    path = workshop.root / "banks.jsonl"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines()[1:]))
    _, built = take(workshop)
    assert built and not {key for key in built if "banks" not in key} - {DIMENSIONS, LEADERBOARD_PAGE}


def test_each_step_changes_its_own_rows_of_the_checkpoint_before_and_nothing_else(workshop: Workshop) -> None:
    chain, _ = take(workshop)
    folders = [chain.artifact(f"transplants/compared_fgsn/{name}").folder() for name in ("traps", "banks")]
    first, second = (load_weights(folder / "model" / "model.safetensors") for folder in folders)
    mine, earlier = load_file(folders[1] / MASKS), load_file(folders[0] / MASKS)
    changed = 0
    for name, before in first.items():
        rows = (before != second[name]).reshape(len(before), -1).any(1).numpy()
        if name not in mine:
            assert not rows.any()
            continue
        assert not (rows & ~mine[name]).any()
        assert not (mine[name] & earlier.get(name, np.zeros_like(mine[name]))).any()
        changed += int(rows.sum())
    assert changed > 0


def test_the_table_holds_every_dimension_so_far_after_every_step(workshop: Workshop) -> None:
    chain, _ = take(workshop)
    table = pl.read_parquet(chain.artifact(DIMENSIONS).path("dimensions.parquet"))
    assert table.select("entry", "step", "after", "dimension").rows() == [
        ("target", 0, None, "traps"), ("target", 0, None, "banks"), ("donor", 0, None, "traps"),
        ("donor", 0, None, "banks"), ("fgsn", 1, "traps", "traps"), ("fgsn", 2, "banks", "traps"),
        ("fgsn", 2, "banks", "banks"),
    ]  # fmt: skip
    assert table["low"].is_not_null().all() and (table["low"] <= table["value"]).all()
    assert table.filter(entry="fgsn")["shared"].to_list() == [0, 0, 0]
    assert chain.artifact(DIMENSIONS).manifest.metadata["disjoint"] is True
    assert table.filter(entry="donor")["value"].min() > table.filter(entry="target")["value"].max()


def test_check_counts_the_prompts_of_every_dimension(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    check_study(workshop.study_file)
    told = re.findall(r"dimension (\w+): (\d+) score, (\d+) test", capsys.readouterr().out)
    assert [(name, int(score) + int(test)) for name, score, test in told] == [
        (name, len((workshop.root / f"{name}.jsonl").read_text().splitlines())) for name in ("traps", "banks")
    ]  # fmt: skip


def test_page_and_command_show_the_table(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    chain, _ = take(workshop)
    page = chain.artifact(LEADERBOARD_PAGE)
    for name in ("leaderboard.html", "leaderboard.md"):
        text = page.path(name).read_text()
        assert "after traps" in text and "after banks" in text and "No row was edited for two dimensions." in text
    asked = len(pl.read_parquet(chain.artifact("prompt_sets/dimension_traps").path("test.function.parquet")))
    html = page.path("leaderboard.html").read_text()
    for called in ("the target", "the donor", "fgsn after traps", "fgsn after banks"):
        assert f"{asked} prompts of the dimension traps behind refusal of {called}, " in html
    store = str(workshop.root / "store")
    assert compare_methods(workshop.study_file, store, False) == 0
    printed = capsys.readouterr().out
    assert "fgsn by dimension" in printed and "after banks" in printed
    assert compare_methods(workshop.study_file, store, True) == 0
    found = LeaderboardDocument.model_validate_json(capsys.readouterr().out)
    assert found.dimensions is not None and found.dimensions.dimensions == ["traps", "banks"]
    assert [step.after for step in found.dimensions.entries[0].steps] == ["traps", "banks"]
