"""Tables, samples and cautions: what cannot be known is said, never shown as zero."""

from collections.abc import Callable
from typing import Any

import polars as pl
import pytest

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.reports import words
from cnt_pipeline.reports.cautions import cautions
from cnt_pipeline.reports.material import SUBJECTS, Material
from cnt_pipeline.reports.network import DIGITS, heat_map, moved_bytes, top_neurons
from cnt_pipeline.reports.samples import SHOWN, choose_samples
from cnt_pipeline.reports.tables import metric_blocks, trial_rows
from cnt_pipeline.study.schema import Function

from .conftest import metric_row, metrics_frame, samples_frame

MakeMaterial = Callable[..., Material]


def test_an_unjudged_metric_has_no_figure(make_material: MakeMaterial) -> None:
    samples = pl.concat(
        [
            make_material().samples,
            samples_frame([(s, "multiple_choice", "utility", "utility0", None) for s in SUBJECTS]),
        ]
    )
    block = metric_blocks(make_material(samples=samples))[-1]
    assert block.metric == "multiple_choice" and not block.judged
    assert {cell.value for cell in block.cells} == {"not judged"}


def test_a_subject_without_a_row_is_not_judged_while_others_keep_theirs(make_material: MakeMaterial) -> None:
    rows = [metric_row("donor", "refusal", 1.0, unscored=3, vs_target=0.9, vs_target_low=0.8, vs_target_high=1.0)]
    cells = {cell.subject: cell for cell in metric_blocks(make_material(metrics=metrics_frame(rows)))[0].cells}
    assert (cells["target"].value, cells["target"].unscored) == ("not judged", 5)
    assert (cells["donor"].vs_target, cells["donor"].vs_target_interval) == ("+90.0", "+80.0 to +100.0")
    assert (cells["donor"].vs_donor, cells["donor"].unscored) == (words.NONE, 3)


def test_the_target_is_no_unjudged_sample_of_its_own_divergence(make_material: MakeMaterial) -> None:
    metrics = metrics_frame([metric_row("donor", "target_kl", 0.00042)])
    cells = metric_blocks(make_material(metrics=metrics))[-1].cells
    assert (cells[0].value, cells[0].unscored) == (words.NONE, 0)
    assert cells[2].value == "0.0004"


def test_what_moved_is_listed_by_rank_with_the_bias_below_its_row(make_material: MakeMaterial) -> None:
    rows = moved_bytes(make_material())
    assert [(row["rank"], row["tensor"], row["where"], row["parameters"]) for row in rows] == [
        ("1", "0.down.weight", "column 0", "16"),
        ("2", "0.down.weight", "column 1", "16"),
        ("3", "1.q.weight", "row 3", "16"),
        ("3", "1.q.bias", "row 3", "1"),
        ("4", "1.down.weight", "column 7", "16"),
    ]
    assert (rows[2]["before"], rows[2]["after"]) == (("2a" * 32)[:DIGITS], ("2b" * 32)[:DIGITS])


def test_the_heat_map_counts_every_layer_and_family(make_material: MakeMaterial) -> None:
    heat = heat_map(make_material())
    assert heat.families == ("q", "down")
    assert [(layer, [c.moved for c in cells], moved) for layer, cells, moved in heat.rows] == [
        (0, [0, 2], 2),
        (1, [1, 1], 2),
    ]
    assert [cell.share for cell in heat.rows[0][1]] == ["0\u00a0%", "25\u00a0%"]
    assert [cell.shade for cell in heat.rows[0][1]] == [0, 5]
    assert [(cell.moved, cell.neurons) for cell in heat.totals] == [(1, 16), (3, 16)]


def test_top_neurons_carry_the_uncertainty_of_the_chosen_ranking(make_material: MakeMaterial) -> None:
    rows = top_neurons(make_material())
    assert [row["place"] for row in rows][:2] == ["layer 0, down, neuron 0", "layer 0, down, neuron 1"]
    assert rows[0]["error"] == "0.01000" and len(rows) == 4


def test_trials_show_a_dash_for_what_was_not_measured(make_material: MakeMaterial) -> None:
    first, second = trial_rows(make_material())
    assert (first["misfire"], first["utility"], first["share"], first["holds"]) == (
        "–",
        "–",
        "0.010\u00a0%",
        "no",
    )
    assert (second["utility"], second["holds"]) == ("99.0\u00a0%", "yes")


def test_ten_samples_in_file_order_where_nothing_differs(make_material: MakeMaterial) -> None:
    chosen = choose_samples(make_material())
    assert [sample.kind for sample in chosen] == [kind for kind, places in SHOWN.items() for _ in range(places)]
    assert [sample.prompt.split(" <")[0] for sample in chosen[4:7]] == [f"lookalike prompt {n}" for n in range(3)]
    assert chosen == choose_samples(make_material())


def test_misses_and_differences_come_first(make_material: MakeMaterial) -> None:
    material = make_material()
    said = {subject: dict(kinds) for subject, kinds in material.said.items()}
    said["transplant"]["utility"] = [
        Completion(row.id, 0, "other" if row.id == "utility4" else row.text, (1,), True, -1.0)
        for row in said["transplant"]["utility"]
    ]
    missed = pl.col("id").eq("function3") & pl.col("subject").eq("transplant")
    samples = material.samples.with_columns(pl.when(missed).then(0.0).otherwise("value").alias("value"))
    chosen = choose_samples(make_material(said=said, samples=samples))
    assert chosen[0].prompt.startswith("function prompt 3") and chosen[0].missed == "judged unlike the donor"
    assert chosen[7].prompt.startswith("utility prompt 4") and chosen[7].answers[1].changed


def test_an_incoherent_answer_is_a_miss(make_material: MakeMaterial) -> None:
    babble = [(s, "coherence", "function", "function2", float(s != "transplant")) for s in SUBJECTS]
    chosen = choose_samples(make_material(samples=pl.concat([make_material().samples, samples_frame(babble)])))
    assert (chosen[0].prompt.split(" <")[0], chosen[0].missed) == ("function prompt 2", "incoherent")


def test_a_sound_study_raises_no_caution(make_material: MakeMaterial) -> None:
    assert cautions(make_material()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"selection": {"meets_every_limit": False}}, "no candidate that meets every limit"),
        ({"completeness": {"completeness_gap": 0.06}}, "do not add up (gap 6.0\u00a0%)"),
        ({"comparison": {"warnings": ["one", "two"]}}, "left 2 warnings"),
    ],
)
def test_cautions_name_what_no_gate_reads(make_material: MakeMaterial, changes: dict[str, Any], said: str) -> None:
    ((name, values),) = changes.items()
    found = cautions(make_material(**{name: {**getattr(make_material(), name), **values}}))
    assert len(found) == 1 and said in found[0].text


def test_a_gate_that_cannot_fail_is_named(make_material: MakeMaterial) -> None:
    rows = [metric_row(s, "over_refusal", 1.0) for s in SUBJECTS] + [metric_row("target", "utility", 0.0)]
    texts = " ".join(c.text for c in cautions(make_material(metrics=metrics_frame(rows))))
    assert "gate on look-alikes cannot fail" in texts and "gate on utility cannot fail" in texts
    assert "For refusal no prompt could be judged." in texts


def test_lost_coherence_is_named(make_material: MakeMaterial) -> None:
    row = metric_row("transplant", "coherence", 0.9, vs_target=-0.1, vs_target_low=-0.15, vs_target_high=-0.05)
    frame = pl.concat([make_material().metrics, metrics_frame([row])])
    assert [c.text for c in cautions(make_material(metrics=frame))] == [
        "Coherence lies −10.0\u00a0points from the target's."
    ]


def test_figures_never_show_a_negative_zero_or_hide_an_absent_value() -> None:
    assert words.percent(-0.0001) == "0.0\u00a0%" and words.change("utility", -1e-9) == "0.0\u00a0points"
    assert words.percent(None) == words.number(float("nan")) == words.difference("refusal", None) == "–"
    assert words.interval("refusal", 0.5, 0.5, signed=True) == "on every prompt"
    assert words.share(0.00012) == "0.012\u00a0%" and words.share(0.0795) == "7.95\u00a0%"
    assert words.change("perplexity", 0.25) == "+0.2500\u00a0nats" and words.change("pronoun_gap", -0.5) == "−0.500"


def test_the_wanted_side_follows_the_direction() -> None:
    assert words.wanted("refusal", Function(name="refusal")) == "higher is better"
    assert words.wanted("refusal", Function(name="refusal", direction="delete")) == "lower is better"
    assert words.wanted("utility", Function(name="bias", direction="delete")) == "higher is better"
