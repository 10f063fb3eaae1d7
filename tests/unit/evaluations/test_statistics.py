"""The table of comparisons and its words follow the rule that is written beside them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from cnt_pipeline.evaluations.schema import SAMPLES, SAMPLES_SCHEMA, STATISTICS_TABLE
from cnt_pipeline.evaluations.statistics import write_statistics
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Accept, Function

Answers = Mapping[str, Sequence[float | None]]


def samples(metric: str, answers: Answers, source: str = "set", variant: int = 0) -> list[dict[str, Any]]:
    return [
        {"subject": subject, "metric": metric, "kind": "function", "source": source, "id": f"{source}-{i}",
         "variant": variant, "value": value}
        for subject, values in answers.items() for i, value in enumerate(values)
    ]  # fmt: skip


def told(
    rows: list[dict[str, Any]], folder: Path, aside: Sequence[str] = (), **function: str
) -> tuple[pl.DataFrame, dict[tuple[str, str], dict[str, Any]], dict[str, Any]]:
    write_parquet(pa.Table.from_pylist(rows, schema=SAMPLES_SCHEMA), folder / SAMPLES)
    about = Function.model_validate({"name": "refusal", **function})
    document = write_statistics(folder, about, Accept(), 0, folder, aside)
    verdicts = {(each["metric"], each["against"]): each for each in document["verdicts"]}
    return pl.read_parquet(folder / STATISTICS_TABLE), verdicts, document


def first(ones: int, n: int) -> list[float]:
    return [1.0] * ones + [0.0] * (n - ones)


def test_a_function_that_came_over_is_better_than_the_target_and_unshown_against_the_donor(tmp_path: Path) -> None:
    rows = samples("refusal", {"target": first(0, 60), "donor": first(60, 60), "transplant": first(58, 60)})
    table, verdicts, document = told(rows, tmp_path)
    assert verdicts["refusal", "target"]["sentence"] == "better"
    unseen = verdicts["refusal", "donor"]
    assert unseen["word"] == "no difference shown"
    assert unseen["sentence"].endswith(f"(a difference below {100 * unseen['mde']:.1f} points would have gone unseen)")
    assert "corrected p-value is below 0.05" in document["rule"] and "Duffy" in document["method"]
    assert set(table.select("subject", "against").iter_rows()) == {
        ("donor", "target"), ("transplant", "target"), ("transplant", "donor"),
    }  # fmt: skip


def test_deletion_turns_better_and_worse_around(tmp_path: Path) -> None:
    rows = samples("pronoun_gap", {"target": [0.9, 0.8] * 20, "donor": [0.0] * 40, "transplant": [0.1, 0.2] * 20})
    _, verdicts, _ = told(rows, tmp_path, name="bias", direction="delete")
    assert verdicts["pronoun_gap", "target"]["word"] == "better"
    assert verdicts["pronoun_gap", "donor"]["word"] == "worse"


@pytest.mark.parametrize(
    ("n", "changed", "word"),
    [(400, 0, "equivalent"), (100, 0, "no difference shown"), (400, 20, "worse"), (4000, 10, "worse")],
)
def test_utility_is_equivalent_only_where_the_interval_lies_within_the_limit(
    tmp_path: Path, n: int, changed: int, word: str
) -> None:
    same = first(n, n)
    rows = samples("utility", {"target": same, "donor": same, "transplant": first(n - changed, n)})
    _, verdicts, _ = told(rows, tmp_path)
    found = verdicts["utility", "target"]
    assert (found["word"], found["limit"]) == (word, 0.01)
    assert ("less than the study's limit of 1.0 points" in found["sentence"]) == (n == 4000)
    assert verdicts["utility", "donor"]["limit"] is None, "the study sets no limit against the donor"


def test_misfires_are_held_against_the_donor(tmp_path: Path) -> None:
    rows = samples("over_refusal", {which: first(0, 200) for which in ("target", "donor", "transplant")})
    _, verdicts, _ = told(rows, tmp_path)
    assert verdicts["over_refusal", "donor"]["sentence"] == "equivalent within the study's limit of 3.0 points"
    assert verdicts["over_refusal", "target"]["word"] == "no difference shown"


def test_p_values_are_corrected_over_the_metrics_of_the_study(tmp_path: Path) -> None:
    target = {"target": first(0, 60), "donor": first(0, 60)}
    rows = [
        row
        for metric, ones in (("refusal", 6), ("over_refusal", 8), ("utility", 0))
        for row in samples(metric, {**target, "transplant": first(ones, 60)})
    ]
    table, verdicts, _ = told(rows, tmp_path)
    mine = table.filter(subject="transplant", against="target")
    found = dict(mine.select("metric", "p_holm").iter_rows())
    assert found == pytest.approx({"refusal": 2 * 0.03125, "over_refusal": 3 * 0.0078125, "utility": 1.0})
    assert verdicts["refusal", "target"]["word"] == "no difference shown", "0.031 is not enough among three metrics"
    assert verdicts["over_refusal", "target"]["word"] == "worse"


def test_sources_beside_the_gates_have_rows_of_their_own_alone(tmp_path: Path) -> None:
    rows = [
        *samples("refusal", {"target": first(0, 20), "donor": first(20, 20), "transplant": first(20, 20)}, "ours"),
        *samples("refusal", {"target": first(0, 10), "donor": first(10, 10), "transplant": first(0, 10)}, "beside"),
    ]
    table, _, _ = told(rows, tmp_path, aside=["beside"])
    mine = table.filter(subject="transplant", against="target")
    counted = {row["source"]: (row["n"], row["difference"]) for row in mine.iter_rows(named=True)}
    assert counted == {"": (20, 1.0), "ours": (20, 1.0), "beside": (10, 0.0)}


def test_draws_of_a_control_count_by_prompt_and_what_was_not_judged_is_left_out(tmp_path: Path) -> None:
    rows = [
        *samples("refusal", {"target": first(0, 20), "donor": first(20, 20), "transplant": [None, *first(18, 19)]}),
        *(row for draw in (0, 1) for row in samples("refusal", {"control_random": first(10 * draw, 20)}, variant=draw)),
    ]
    table, _, _ = told(rows, tmp_path)
    found = {(row["subject"], row["against"]): row for row in table.iter_rows(named=True)}
    assert found["transplant", "target"]["n"] == 19
    control = found["control_random", "target"]
    assert (control["test"], control["n"], control["discordant"]) == ("sign_flip", 20, None)
    assert control["difference"] == pytest.approx(0.25)


def test_the_distance_from_the_target_is_not_compared_with_the_targets_own(tmp_path: Path) -> None:
    rows = samples("target_kl", {"target": [0.0] * 8, "donor": [0.2, 0.3] * 4, "transplant": [0.1, 0.2] * 4})
    _, verdicts, _ = told(rows, tmp_path)
    assert {key: each["word"] for key, each in verdicts.items()} == {("target_kl", "donor"): "better"}
