"""What really runs again after a change, on a finished small study."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cnt_pipeline.measures import scorers
from cnt_pipeline.store import Store
from tests.caching.conftest import Workshop

Finished = tuple[Workshop, dict[str, str]]


def stages(keys: set[str]) -> set[str]:
    return {key.split("/")[0] for key in keys}


def test_a_second_run_builds_nothing(workshop: Workshop) -> None:
    assert workshop.built() == set()


def test_editing_the_edit_rule_recomputes_transplant_evaluation_and_report_only(workshop: Workshop) -> None:
    workshop.edit(lambda study: study["method"].update(eta=[1.5]))
    built = workshop.built()
    assert stages(built) == {"transplants", "completions", "evaluations", "reports"}
    assert {key for key in built if key.startswith("completions/")} <= {
        "completions/transplant/test", "completions/control_random/test", "completions/control_largest_delta/test"
    }  # fmt: skip


def test_editing_one_test_prompt_recomputes_its_completions_evaluation_and_report_only(
    workshop: Workshop, change_row: Callable[[Path, int, str], None]
) -> None:
    change_row(workshop.root / "utility.test.jsonl", 3, "what is the capital of nowhere at all")
    built = workshop.built()
    assert built == {
        "prompt_sets/roles", "completions/target/test", "completions/donor/test", "completions/transplant/test",
        "completions/control_random/test", "completions/control_largest_delta/test", "evaluations/scores",
        "evaluations/statistics", "evaluations/verdict", "reports/page",
    }  # fmt: skip


def test_changing_a_scorer_scores_again_without_generating(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    function, version = scorers.SCORERS["target_kl"]
    workshop.edit(lambda study: study.update(evaluate=["refusal", "target_kl"]))
    workshop.run()
    monkeypatch.setitem(scorers.SCORERS, "target_kl", (function, version + 1))
    assert workshop.built() <= {"evaluations/scores", "evaluations/statistics", "evaluations/verdict", "reports/page"}


def test_changing_the_machine_settings_recomputes_nothing(workshop: Workshop) -> None:
    workshop.edit(lambda study: study.update(run={"batch_size": 7, "threads": 2}))
    assert workshop.built() == set()


def test_going_back_to_an_earlier_study_recomputes_nothing(workshop: Workshop) -> None:
    before = workshop.study_file.read_text()
    workshop.edit(
        lambda study: (
            study["accept"].update(recovery=0.5) if "accept" in study else study.update(accept={"recovery": 0.5})
        )
    )
    assert workshop.built() == {"evaluations/verdict", "reports/page"}
    workshop.study_file.write_text(before)
    assert workshop.built() == set()


def test_equal_content_cuts_the_chain_off(workshop: Workshop) -> None:
    """A prompt file whose rows are laid out anew holds the same prompts: nothing below the sets runs."""
    path = workshop.root / "function.score.jsonl"
    path.write_text(path.read_text().replace('": ', '":   '))
    assert workshop.built() == {"prompt_sets/roles", "reports/page"}


def test_a_model_in_another_folder_is_the_same_model(workshop: Workshop, tmp_path: Path) -> None:
    import shutil

    from cnt_pipeline.models.sources import package_path

    shutil.copytree(package_path("cnt_pipeline", "demo/models/helpful"), tmp_path / "elsewhere")
    workshop.edit(lambda study: study["models"].update(target={"path": str(tmp_path / "elsewhere")}))
    assert workshop.built() <= {"reports/page"}


def test_runs_in_two_stores_give_the_same_digests(finished: Finished, tmp_path: Path) -> None:
    import shutil

    root = tmp_path / "again"
    shutil.copytree(finished[0].root, root, ignore=shutil.ignore_patterns("store"))
    digests = {key: taken.built.artifact.digest for key, taken in Workshop(root).run().items()}
    assert digests == finished[1]


def test_a_damaged_artifact_is_rebuilt_alone(workshop: Workshop) -> None:
    taken = workshop.run()["neuron_rankings/path"]
    path = taken.built.artifact.path("ranking.parquet")
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    assert Store(workshop.root / "store").state("neuron_rankings", taken.fingerprint).word == "broken"
    assert workshop.built() == {"neuron_rankings/path"}
