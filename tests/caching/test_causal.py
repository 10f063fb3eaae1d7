"""The causal effect on the packaged models: which steps it takes, and what it says of all activations."""

import shutil
from typing import Any

import polars as pl
import pytest

from cnt_pipeline.commands.compare import compare_methods
from cnt_pipeline.pipeline.compare_steps import CHOSEN, COST, LEADERBOARD, LEADERBOARD_PAGE
from cnt_pipeline.pipeline.documents import LeaderboardDocument
from tests.caching.conftest import Workshop
from tests.caching.test_dimensions import take

EDIT = "transplants/compared_safety-neurons"
PATCHED = "completions/causal_safety-neurons/test"
OWN = {
    "activation_caches/activation/target", "activation_caches/activation/donor", EDIT,
    "completions/compared_safety-neurons/test", PATCHED, LEADERBOARD, LEADERBOARD_PAGE,
}  # fmt: skip


def comparing(workshop: Workshop, *methods: Any) -> None:
    workshop.edit(lambda study: study.update(compare={"methods": list(methods)}))


def test_safety_neurons_run_their_own_steps_and_say_what_their_activations_cause(
    workshop: Workshop, capsys: pytest.CaptureFixture[str]
) -> None:
    comparing(workshop, "delta_norm")
    take(workshop)
    comparing(workshop, "delta_norm", {"method": "safety_neurons", "options": {"budget": 1.0, "families": "all"}})
    chain, built = take(workshop)
    assert built == OWN
    assert take(workshop)[1] == set()

    edit = chain.artifact(EDIT)
    shutil.rmtree(edit.folder())
    chain, built = take(workshop)  # what a build costs is in its manifest, so nothing that reads it is made anew
    assert built == {EDIT} and chain.artifact(EDIT).digest == edit.digest

    chosen = pl.read_parquet(chain.artifact(EDIT).path(CHOSEN))
    assert set(chosen["family"]) == {"q", "k", "v", "o", "gate", "up", "down"}
    patched, target = (
        pl.read_parquet(chain.artifact(key).path("function.parquet")) for key in (PATCHED, "completions/target/test")
    )
    assert patched["id"].to_list() == target["id"].to_list()
    assert patched["text"].to_list() != target["text"].to_list()

    page = chain.artifact(LEADERBOARD_PAGE).path("leaderboard.html").read_text()
    assert page.count(f"{len(target)} prompts behind the causal effect of the neurons of safety-neurons") == 1
    assert page.count('class="a by-_patched-safety-neurons') == len(target)

    store = str(workshop.root / "store")
    assert compare_methods(workshop.study_file, store, True) == 0
    rows = {row.name: row for row in LeaderboardDocument.model_validate_json(capsys.readouterr().out).rows}
    assert {"seconds": rows["safety-neurons"].seconds, "peak_memory": rows["safety-neurons"].peak_memory} == (
        edit.manifest.metadata[COST]
    )
    effect = rows["safety-neurons"].causal
    assert effect is not None and effect.value is not None and effect.low is not None and effect.high is not None
    assert effect.low <= effect.value <= effect.high and effect.value > 0 and effect.n == len(target)
    assert effect.patched is not None and effect.patched.value == pytest.approx(
        rows["target"].metrics["refusal"].value
        + effect.value * (rows["donor"].metrics["refusal"].value - rows["target"].metrics["refusal"].value)
    )
    assert [name for name, row in rows.items() if row.causal is not None] == ["safety-neurons"]

    assert compare_methods(workshop.study_file, store, False) == 0
    assert "activations in the neurons of safety-neurons bring the target" in capsys.readouterr().out


def test_other_options_of_the_method_leave_every_other_entry_alone(workshop: Workshop) -> None:
    comparing(workshop, "delta_norm", "safety_neurons")
    take(workshop)
    comparing(workshop, "delta_norm", {"method": "safety_neurons", "options": {"budget": 0.02}})
    assert take(workshop)[1] == {key for key in OWN if not key.startswith("activation_caches/")}
