"""`refine`, `mask` and `prune` on the packaged pair: what they find holds, is no larger, and is what gets written."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from cnt_pipeline.activation_caches.objectives import OBJECTIVES, answered, objectives_of
from cnt_pipeline.activation_caches.probes.effect import nodes
from cnt_pipeline.completions.build import EncodedSet, context_length, encode_set
from cnt_pipeline.completions.schema import Completion, read_completions
from cnt_pipeline.completions.schema import file_name as completion_file
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.prompt_sets.schema import file_name, read_prompts
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import KINDS, Kind, Method, Study
from cnt_pipeline.transplants.apply import write_transplant
from cnt_pipeline.transplants.select.build import plan_of, write_learning
from cnt_pipeline.transplants.select.candidates import Space, read_scores
from cnt_pipeline.transplants.select.judge import Judge
from cnt_pipeline.transplants.select.learn import Curve, Term
from cnt_pipeline.transplants.select.mask import mask
from cnt_pipeline.transplants.select.prune import prune
from cnt_pipeline.transplants.select.refine import InsideEffects, refine
from cnt_pipeline.transplants.select.search import Found, Search
from cnt_pipeline.transplants.select.settings import DEFAULTS, LearnSettings
from cnt_pipeline.transplants.select.units import read_unit_orders
from tests.conftest import Project

torch.set_num_threads(1)
BATCH = 64


@dataclass(frozen=True)
class Bench:
    """A finished study of the packaged pair, taken apart: everything a selection rule is given."""

    study: Study
    pool: ModelPool
    space: Space
    judge: Judge
    ranking: Path
    scoring: dict[Kind, EncodedSet]
    ours: dict[Kind, list[Completion]]
    donated: list[Completion]

    def search(self, **method: Any) -> Search:
        """A search of its own along the ranking without look-alike effect."""
        settings = Method(**{"lookalike_weight": (0.0,), "aim": 0.9, **method})
        orders = read_unit_orders(self.ranking, self.space, self.pool.architecture(), settings.units)
        return Search(self.space, {0.0: orders[0.0]}, self.judge, settings, self.study.accept)

    def inside(self) -> InsideEffects:
        objectives = {
            name: [g for kind in kinds for g in objectives_of(name, self.scoring[kind], self.ours[kind], self.donated)]
            for name, kinds in OBJECTIVES.items()
        }
        return InsideEffects(self.pool.swap(), self.space, objectives, nodes(2), 1.0, BATCH)

    def terms(self, settings: LearnSettings) -> list[Term]:
        answers = {**self.ours, "function": self.donated}
        examples = {
            kind: tuple(answered(t, row) for t, row in zip(self.scoring[kind].tokens, answers[kind], strict=True))
            for kind in KINDS
        }
        others = tuple(
            answered(t, row) for t, row in zip(self.scoring["function"].tokens, self.ours["function"], strict=True)
        )
        against = others if settings.objective == "preference" else ()
        return [
            Term("function", examples["function"], 1.0, settings.prompts, against, squared=bool(against)),
            Term("lookalike", examples["lookalike"], 0.5, settings.others // 2),
            Term("utility", examples["utility"], 0.5, settings.others // 2),
        ]

    def masked(self) -> tuple[Found, Curve]:
        settings = replace(DEFAULTS["mask"], steps=20, prompts=8, others=4)
        return mask(self.search(), self.pool.swap(), self.terms(settings), settings, 0, BATCH)

    def pruned(self, **method: Any) -> tuple[Found, Curve]:
        settings = replace(DEFAULTS["prune"], steps=15, budget=0.02, candidates=0.06, cuts=2, prompts=8, limit=6.0)
        scores = read_scores(self.ranking, self.space, 0.0)
        return prune(self.search(**method), self.pool.swap(), self.terms(settings), scores, settings, 0, BATCH)


@pytest.fixture(scope="module")
def bench(finished_store: Project) -> Bench:
    kept = {json.loads(m.read_text())["key"]: m.parent for m in finished_store.store.glob("*/*/manifest.json")}
    study = load_study(finished_store.study)
    pool = ModelPool(study)
    swap, tokenizer = pool.swap(), pool.tokenizer()

    def encoded(split: Any, kind: Kind) -> EncodedSet:
        prompts = read_prompts(kept["prompt_sets/roles"] / file_name(split, kind))
        return encode_set(tokenizer, prompts, study.generation, context_length(swap.model))

    def said(subject: str, split: str) -> dict[Kind, list[Completion]]:
        return {k: read_completions(kept[f"completions/{subject}/{split}"] / completion_file(k)) for k in KINDS}

    judge = Judge(
        swap, tokenizer, study.function, {kind: encoded("selection", kind) for kind in KINDS},
        said("target", "selection"), said("donor", "selection"), study.generation, BATCH,
    )  # fmt: skip
    total = sum(tensor.count for tensor in pool.index("target").tensors.values())
    return Bench(
        study, pool, Space.of(pool.architecture(), total), judge, kept["neuron_rankings/path"] / "ranking.parquet",
        {kind: encoded("score", kind) for kind in KINDS}, said("target", "score"), said("donor", "score")["function"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def bisected(bench: Bench) -> Found:
    return bench.search().bisect()


def test_scores_inside_every_neuron_add_up_to_the_whole_change_of_the_loss(bench: Bench) -> None:
    everything = np.arange(len(bench.space.sizes))
    effects = bench.inside()
    transfer = replace_damage(effects).scores(everything, 1.0, 0.0)
    ranking = pl.read_parquet(bench.ranking).filter(pl.col("lookalike_weight") == 0)
    expected = np.zeros(len(everything))
    expected[bench.space.numbers(ranking)] = ranking["effect"].to_numpy()
    np.testing.assert_allclose(transfer, expected, rtol=2e-3, atol=2e-5)
    scored = np.zeros(len(everything))
    weighed = pl.read_parquet(bench.ranking).filter(pl.col("lookalike_weight") == 0.5)
    scored[bench.space.numbers(weighed)] = weighed["score"].to_numpy()
    np.testing.assert_allclose(effects.scores(everything, 1.0, 0.5), scored, rtol=2e-3, atol=2e-5)


def replace_damage(effects: InsideEffects) -> InsideEffects:
    """The same effects without damage in the score."""
    return InsideEffects(effects.swap, effects.space, effects.objectives, effects.path, 0.0, effects.batch_size)


def test_scores_are_zero_outside_the_set(bench: Bench) -> None:
    some = np.arange(0, len(bench.space.sizes), 50)
    scores = bench.inside().scores(some, 1.0, 0.0)
    assert set(np.flatnonzero(scores)) <= set(some.tolist()) and np.abs(scores[some]).sum() > 0


def test_refine_holds_and_never_needs_more_than_bisect(bench: Bench, bisected: Found) -> None:
    found = refine(bench.search(), bench.inside())
    assert found.trial.holds and bisected.trial.holds
    assert found.trial.parameters <= bisected.trial.parameters
    assert any(trial.phase == "refine" for trial in found.trials)
    assert set(found.amplitudes.tolist()) == {1.0}


def test_a_short_mask_holds_with_hard_gates_and_a_seed_decides_it(bench: Bench, bisected: Found) -> None:
    found, curve = bench.masked()
    assert found.trial.holds and bisected.trial.holds
    assert found.trial.parameters <= bisected.trial.parameters
    assert set(found.amplitudes.tolist()) == {1.0} and found.trial.eta == 1.0
    assert curve.rows[-1]["mean_gate"] < curve.rows[0]["mean_gate"]
    again, _ = bench.masked()
    assert found.chosen.tolist() == again.chosen.tolist()


def test_prune_keeps_to_its_budget_and_the_written_checkpoint_is_the_gated_model(bench: Bench, tmp_path: Path) -> None:
    found, curve = bench.pruned()
    write_learning(curve, tmp_path / "learning.parquet")
    learned = pl.read_parquet(tmp_path / "learning.parquet")
    assert learned["step"].to_list() == list(range(15)) and {"function", "lookalike", "utility"} <= set(learned.columns)
    assert learned["units"].is_sorted(descending=True) and learned["units"].n_unique() == 3
    assert found.trial.eta is None and found.trial.share <= 0.02
    assert len(set(found.amplitudes.tolist())) > 1
    assert float(found.amplitudes.min()) > 0 and float(found.amplitudes.max()) <= 6 * 1.25
    assert found.trial.recovery > bench.search().attempt("top", bench.search().orders[0.0].within(
        bench.space, found.trial.parameters), 1.0, 0.0).recovery  # fmt: skip
    plan = plan_of(found, bench.space, bench.ranking)
    target, donor = bench.pool.index("target"), bench.pool.index("donor")
    write_transplant(target, donor, plan, tmp_path / "model")
    swap = bench.pool.swap()
    ids = torch.tensor([bench.scoring["function"].tokens[0]])
    with torch.inference_mode():
        with swap.folded(bench.space.gates(found.chosen, found.amplitudes, torch.device("cpu"))):
            gated = swap.model(input_ids=ids).logits
        written = load_model(tmp_path / "model")(input_ids=ids).logits
    assert torch.equal(gated, written)
    assert read_index(tmp_path / "model").files == target.files


def test_prune_takes_whole_channels(bench: Bench) -> None:
    found, _ = bench.pruned(units=("ffn_channel",))
    rows = bench.space.frame(found.chosen).with_columns(pl.Series("amplitude", found.amplitudes))
    for _, channel in rows.group_by("layer", "neuron"):
        assert sorted(channel["family"]) == ["down", "gate", "up"] and channel["amplitude"].n_unique() == 1
