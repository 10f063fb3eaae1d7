"""Neuron-level safety realignment against its formulas, and what each option does."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from pydantic import ValidationError
from safetensors.numpy import load_file
from scipy.linalg import orthogonal_procrustes
from torch import Tensor

from cnt_pipeline.errors import InputError
from cnt_pipeline.transplants.edit import blockwise
from cnt_pipeline.transplants.edit import nlsr as module
from cnt_pipeline.transplants.edit.lora_factors import Factors
from cnt_pipeline.transplants.edit.nlsr import (
    Masks,
    ModuleDecision,
    critical_entries,
    decide,
    keep_probabilities,
    merged,
    nlsr,
    transplant,
)
from cnt_pipeline.transplants.edit.rows.nlsr import ROWS, NlsrOptions
from cnt_pipeline.transplants.edit.source import Linear, Source

Array = npt.NDArray[Any]
ALL: dict[str, Any] = {"keep_low": 0.0, "keep_high": 0.0}
"""Options under which every matrix is repaired."""
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "code": {"amplify": "code", "rank_mode": "code", "mask_scope": "code", "gate": "code", "merge": "code"},
    "low rank": {"rank": 8, "beta": 0.5, "sparsity": 0.6},
    "low rank, by factor": {"rank": 5, "merge": "code", "safety_rank": 2},
    "share of the rank": {"rank": 12, "safety_rank": 0.5, "mask_scope": "code"},
}


class Weights(Source):
    """A source some of whose tensors are given, by model and name; it notes what it reads."""

    def __init__(self, source: Source, given: Mapping[tuple[str, str], Tensor]) -> None:
        super().__init__(source.architecture, source.models, source.probes)
        self.given = given
        self.read: list[str] = []

    def entries(self, model: str, name: str, part: slice) -> Tensor:
        self.read.append(name)
        given = self.given.get((model, name))
        return super().entries(model, name, part) if given is None else given.reshape(-1)[part].clone()


@pytest.fixture(scope="module")
def llama(make: Callable[[str], Source]) -> Source:
    return make("llama")


def as_model(source: Source, model: str, other: str) -> dict[tuple[str, str], Tensor]:
    """What makes `model` the same as `other`."""
    return {(model, linear.tensor): source.tensor(other, linear.tensor) for linear in source.linears}


def balanced(matrix: Array, rank: int) -> tuple[Array, Array]:
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, (right[:rank].T * root).T


def reference_mask(weight: Array, inputs: Array, directions: int, sparsity: float, whole: bool) -> Array:
    left = np.linalg.svd(weight @ inputs)[0][:, :directions]
    size = np.abs(left @ left.T @ weight)
    rows = [size.reshape(-1)] if whole else list(size)
    masks = []
    for row in rows:
        kept = len(row) - math.floor(sparsity * len(row) + 1e-9)
        mask = np.zeros(len(row))
        for position in sorted(range(len(row)), key=lambda i: -row[i])[:kept]:
            mask[position] = 1
        masks.append(mask)
    return np.array(masks).reshape(size.shape)


def reference(source: Source, linear: Linear, changes: Mapping[str, Any]) -> tuple[float, Array]:
    """The similarity of one matrix and what it becomes, `[out, in]`, straight from methods section 2."""
    base, donor, target = (source.weight(role, linear).numpy().astype(float) for role in ("base", "donor", "target"))
    rank = min(changes.get("rank", 128), *base.shape)
    in_paper = {key: changes.get(key, "paper") == "paper" for key in ("amplify", "rank_mode", "mask_scope", "merge")}
    wanted = changes.get("safety_rank", (25 if in_paper["rank_mode"] else 102) / 128)
    directions = wanted if isinstance(wanted, int) else max(math.floor(wanted * rank), 1)
    scale = 1 + changes.get("beta", 0.9) if in_paper["amplify"] else 3.24
    sparsity = changes.get("sparsity", 0.8)

    b, a = balanced(donor - base, rank)
    b_t, a_t = balanced(target - base, rank)
    more, less = np.sqrt(1.001), np.sqrt(0.999)
    turn = orthogonal_procrustes(np.vstack([more * b_t, less * a_t.T]), np.vstack([more * b, less * a.T]))[0]
    b_t, a_t = b_t @ turn, turn.T @ a_t
    second = load_file(source.probes["moments/donor"] / "function.safetensors")[f"{linear.module}.second"]
    inputs = np.linalg.cholesky(second.astype(float))
    m_a = reference_mask(a, inputs, directions, sparsity, not in_paper["mask_scope"])
    m_b = reference_mask(b, a @ inputs, directions, sparsity, not in_paper["mask_scope"])

    b_ref, a_ref = np.sqrt(scale) * b, np.sqrt(scale) * a
    one, other = (m_b * b_ref) @ (m_a * a_ref), (m_b * b_t) @ (m_a * a_t)
    cosine = (one * other).sum() / np.sqrt((one**2).sum() * (other**2).sum())
    if in_paper["merge"]:
        repaired = one + ((1 - m_b) * b_t) @ ((1 - m_a) * a_t)
    else:
        repaired = (m_b * b_ref + (1 - m_b) * b_t) @ (m_a * a_ref + (1 - m_a) * a_t)
    return float(cosine), target + repaired - b_t @ a_t


@pytest.mark.parametrize("variant", VARIANTS)
def test_similarities_and_repaired_matrices_follow_the_formulas(source: Source, variant: str) -> None:
    changes = VARIANTS[variant]
    options = NlsrOptions(**changes, **ALL)
    decisions = decide(source, options, seed=0)
    edits = transplant(source, options, decisions)
    assert list(edits) == [linear.tensor for linear in source.linears]
    for linear, decision in zip(source.linears, decisions, strict=True):
        similarity, weight = reference(source, linear, changes)
        assert decision.similarity == pytest.approx(similarity, rel=1e-5, abs=1e-9)
        found = edits[linear.tensor]()
        assert found.dtype == torch.float32
        wanted = weight.T if linear.transposed else weight
        assert found.shape == wanted.shape
        assert np.abs(found.numpy() - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_decisions_name_the_matrix_and_are_in_the_architectures_order(source: Source) -> None:
    decisions = decide(source, NlsrOptions(), seed=0)
    named = [(one.tensor, one.module, one.layer, one.families) for one in decisions]
    assert named == [(one.tensor, one.module, one.layer, one.families) for one in source.linears]


def test_edits_are_those_of_the_patched_matrices_alone(source: Source) -> None:
    decisions = decide(source, NlsrOptions(), seed=3)
    patched = {one.tensor for one in decisions if one.patched}
    assert 0 < len(patched) < len(decisions)
    assert set(nlsr(source, NlsrOptions(), seed=3)) == patched


def test_with_every_entry_critical_the_matrix_becomes_the_extrapolated_reference(source: Source) -> None:
    for merge in ("paper", "code"):
        edits = nlsr(source, NlsrOptions(beta=0.9, sparsity=0.0, merge=merge, **ALL), seed=0)
        for name, edit in edits.items():
            wanted = 1.9 * source.tensor("donor", name) - 0.9 * source.tensor("base", name)
            assert (edit() - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_a_target_that_never_drifted_is_wholly_similar_and_stays_where_factors_join_without_amplification(
    llama: Source,
) -> None:
    same = Weights(llama, as_model(llama, "target", "donor"))
    options = NlsrOptions(beta=0.0, merge="code", rank=6, **ALL)
    decisions = decide(same, options, seed=0)
    assert [one.similarity for one in decisions] == pytest.approx([1.0] * len(decisions))
    for name, edit in transplant(same, options, decisions).items():
        assert torch.allclose(edit(), same.tensor("target", name), atol=1e-6)


def test_the_matrix_that_drifted_is_the_least_similar_and_repaired_by_the_deterministic_gate(llama: Source) -> None:
    given = as_model(llama, "target", "donor")
    drifted = llama.linears[5].tensor
    given["target", drifted] = llama.tensor("target", drifted)
    decisions = decide(Weights(llama, given), NlsrOptions(gate="deterministic", rank=8), seed=0)
    least = min(decisions, key=lambda one: one.similarity)
    assert least.tensor == drifted
    assert least.patched
    assert least.similarity < 0.9


def test_what_the_factors_do_not_describe_stays_in_the_target(llama: Source) -> None:
    for name, edit in nlsr(llama, NlsrOptions(rank=2, **ALL), seed=0).items():
        values = torch.linalg.svdvals((edit() - llama.tensor("target", name)).double())
        assert values[6:].max() < 1e-5 * values[0]


def test_only_what_the_masks_touch_changes_when_factors_join() -> None:
    lot = torch.Generator().manual_seed(0)
    ours = Factors(torch.randn(6, 3, generator=lot).double(), torch.randn(3, 5, generator=lot).double())
    theirs = Factors(torch.randn(6, 3, generator=lot).double(), torch.randn(3, 5, generator=lot).double())
    masks = Masks(torch.zeros(6, 3).bool(), torch.zeros(3, 5).bool())
    masks.b[2, 1] = masks.a[0, 4] = True
    changed = (merged(theirs, ours, masks, NlsrOptions(merge="code")).product() - ours.product()).abs() > 1e-12
    wanted = torch.zeros(6, 5).bool()
    wanted[2, :] = wanted[:, 4] = True
    assert torch.equal(changed, wanted)


def test_the_sum_of_products_leaves_out_masked_times_unmasked() -> None:
    factors = Factors(torch.tensor([[2.0, 3.0]]).double(), torch.tensor([[5.0], [7.0]]).double())
    masks = Masks(torch.tensor([[True, False]]), torch.tensor([[False], [False]]))
    assert merged(factors, factors, masks, NlsrOptions()).product().item() == 3 * 7
    assert merged(factors, factors, masks, NlsrOptions(merge="code")).product().item() == 2 * 5 + 3 * 7


def drawn_factors() -> tuple[Factors, Tensor]:
    lot = torch.Generator().manual_seed(0)
    inputs = torch.randn(40, 30, generator=lot)
    factors = Factors(torch.randn(20, 10, generator=lot).double(), torch.randn(10, 30, generator=lot).double())
    return factors, inputs.T @ inputs / len(inputs)


def test_masks_take_a_fifth_of_every_row_or_of_the_whole_factor() -> None:
    by_row = critical_entries(*drawn_factors(), NlsrOptions())
    assert by_row.a.sum(1).tolist() == [6] * 10
    assert by_row.b.sum(1).tolist() == [2] * 20
    whole = critical_entries(*drawn_factors(), NlsrOptions(mask_scope="code"))
    assert (int(whole.a.sum()), int(whole.b.sum())) == (60, 40)
    assert len(set(whole.a.sum(1).tolist())) > 1


def test_a_row_shorter_than_the_share_still_has_one_critical_entry() -> None:
    factors, second = drawn_factors()
    masks = critical_entries(Factors(factors.b[:, :2], factors.a[:2]), second, NlsrOptions(sparsity=0.99))
    assert masks.b.sum(1).tolist() == [1] * 20


def test_a_share_that_meets_a_whole_number_of_entries_leaves_out_that_number() -> None:
    lot = torch.Generator().manual_seed(0)
    factors = Factors(torch.randn(5, 2, generator=lot).double(), torch.randn(2, 100, generator=lot).double())
    masks = critical_entries(factors, torch.eye(100), NlsrOptions(sparsity=0.29))
    assert masks.a.sum(1).tolist() == [71, 71]


def test_masks_depend_on_what_the_inputs_are() -> None:
    factors, second = drawn_factors()
    loud = second.clone()
    loud[3] *= 30
    loud[:, 3] *= 30
    assert not torch.equal(
        critical_entries(factors, second, NlsrOptions()).a, critical_entries(factors, loud, NlsrOptions()).a
    )


def test_the_size_of_blocks_changes_no_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = critical_entries(*drawn_factors(), NlsrOptions())
    monkeypatch.setattr(blockwise, "ROWS", 7)
    monkeypatch.setattr(blockwise, "HELD", 50)
    blocks = critical_entries(*drawn_factors(), NlsrOptions())
    assert torch.equal(whole.a, blocks.a)
    assert torch.equal(whole.b, blocks.b)


def test_the_less_similar_a_matrix_the_less_likely_it_stays() -> None:
    assert keep_probabilities([0.9, 0.1, 0.5], NlsrOptions()) == pytest.approx([0.7, 0.3, 0.5])
    assert keep_probabilities([0.9, 0.1, 0.5], NlsrOptions(gate="code")) == pytest.approx([0.3, 0.7, 0.5])
    assert keep_probabilities([0.4, -1], NlsrOptions(keep_low=0.0, keep_high=1.0)) == [1, 0]
    assert keep_probabilities([0.4], NlsrOptions()) == [0.3]


def test_the_deterministic_gate_repairs_the_least_similar_half() -> None:
    options = NlsrOptions(gate="deterministic")
    assert keep_probabilities([0.9, 0.1, 0.5, 0.2], options) == [1, 0, 1, 0]
    assert keep_probabilities([0.9, 0.1, 0.5], options) == [1, 0, 0]


def test_matrices_are_patched_as_often_as_their_probability_says(
    llama: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {linear.tensor: float(place) for place, linear in enumerate(llama.linears)}
    monkeypatch.setattr(module, "similarity", lambda source, options, linear: places[linear.tensor])
    draws = 600
    counts = dict.fromkeys(places, 0)
    for seed in range(draws):
        decisions = decide(llama, NlsrOptions(), seed)
        for one in decisions:
            counts[one.tensor] += one.patched
    assert decisions[0].keep == pytest.approx(0.3)
    assert decisions[-1].keep == pytest.approx(0.7)
    for one in decisions:
        assert counts[one.tensor] / draws == pytest.approx(1 - one.keep, abs=4 * (0.25 / draws) ** 0.5)


def test_the_same_seed_decides_the_same_and_another_seed_otherwise(source: Source) -> None:
    one, again, other = (decide(source, NlsrOptions(), seed) for seed in (0, 0, 1))
    assert one == again
    assert [a.patched for a in one] != [b.patched for b in other]
    assert [replace(a, patched=False) for a in one] == [replace(b, patched=False) for b in other]


def test_edits_of_the_same_seed_are_equal_bit_for_bit(llama: Source) -> None:
    one, again = (nlsr(llama, NlsrOptions(), seed=2) for _ in range(2))
    assert list(one) == list(again)
    assert all(torch.equal(one[name](), again[name]()) for name in one)


def test_a_matrix_is_drawn_alike_whatever_other_matrices_are_looked_at(llama: Source) -> None:
    even = {"keep_low": 0.5, "keep_high": 0.5}
    whole = {one.tensor: one.patched for one in decide(llama, NlsrOptions(**even), seed=0)}
    part = decide(llama, NlsrOptions(families=("q", "down"), **even), seed=0)
    assert {one.families for one in part} == {("q",), ("down",)}
    assert all(one.patched == whole[one.tensor] for one in part)


def test_modules_are_chosen_by_pattern(llama: Source) -> None:
    decisions = decide(llama, NlsrOptions(modules=("*.0.self_attn.*", "*.mlp.up_proj"), families=("q", "up")), seed=0)
    assert [(one.layer, one.families) for one in decisions] == [(0, ("q",)), (0, ("up",)), (1, ("up",))]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"families": ("neck",)}, "no neuron family 'neck': choose among q, k, v"),
        ({"families": ("q",)}, "holds q, k, v in one matrix.*: list all of them in families"),
        ({"modules": ("*.experts.*",)}, r"the pattern '\*.experts.\*' fits no module"),
        ({"modules": ("*.mlp.*",), "families": ("o",)}, "no module fits both families and modules"),
    ],
)
def test_a_choice_that_cannot_be_made_is_refused(
    make: Callable[[str], Source], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        decide(make("gpt2"), NlsrOptions(**changes), seed=0)


def test_a_fused_matrix_is_chosen_by_all_of_its_families(make: Callable[[str], Source]) -> None:
    decisions = decide(make("gpt2"), NlsrOptions(families=("q", "k", "v")), seed=0)
    assert {one.families for one in decisions} == {("q", "k", "v")}


def test_matrices_that_alignment_left_alone_are_not_ranked(llama: Source) -> None:
    given = as_model(llama, "donor", "base")
    moved = llama.linears[2].tensor
    given["donor", moved] = llama.tensor("donor", moved)
    decisions = decide(Weights(llama, given), NlsrOptions(), seed=0)
    assert [one.tensor for one in decisions] == [moved]


def test_a_donor_that_is_the_base_model_is_refused(llama: Source) -> None:
    with pytest.raises(InputError, match="the donor equals the base model in every matrix"):
        nlsr(Weights(llama, as_model(llama, "donor", "base")), NlsrOptions(), seed=0)


def test_a_target_that_lost_its_alignment_wholly_has_no_similarity(llama: Source) -> None:
    decisions = decide(Weights(llama, as_model(llama, "target", "base")), NlsrOptions(), seed=0)
    assert {one.similarity for one in decisions} == {0.0}


def test_an_adapters_rank_is_found_below_the_rank_option(llama: Source) -> None:
    lot = torch.Generator().manual_seed(1)
    given = {}
    for linear in llama.linears:
        base = llama.weight("base", linear)
        b, a = torch.randn(len(base), 4, generator=lot), torch.randn(4, base.shape[1], generator=lot)
        given["donor", linear.tensor] = base + 0.1 * b @ a
    adapted = Weights(llama, given)
    wide, narrow = (nlsr(adapted, NlsrOptions(rank=rank, **ALL), seed=0) for rank in (128, 4))
    assert all(torch.equal(wide[name](), narrow[name]()) for name in wide)


def test_planned_edits_read_no_weight_until_they_are_made(llama: Source) -> None:
    source = Weights(llama, {})
    tensor = llama.linears[1].tensor
    decision = ModuleDecision(tensor, llama.linears[1].module, 0, ("k",), 0.0, 0.0, patched=True)
    edits = transplant(source, NlsrOptions(), [decision])
    assert source.read == []
    edits[tensor]()
    assert set(source.read) == {tensor}


def test_directions_are_the_published_ones_scaled_to_the_rank() -> None:
    assert [NlsrOptions().directions(rank) for rank in (128, 64, 16, 1)] == [25, 12, 3, 1]
    assert [NlsrOptions(rank_mode="code").directions(rank) for rank in (128, 64, 16, 1)] == [102, 51, 12, 1]
    assert [NlsrOptions(safety_rank=20).directions(rank) for rank in (128, 8)] == [20, 8]
    assert [NlsrOptions(safety_rank=0.25).directions(rank) for rank in (128, 2)] == [32, 1]


def test_the_reference_is_amplified_as_in_the_paper_or_as_in_the_code() -> None:
    assert NlsrOptions().amplification == pytest.approx(1.9)
    assert NlsrOptions(beta=0.5).amplification == 1.5
    assert NlsrOptions(amplify="code").amplification == 3.24


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"amplify": "code", "beta": 0.9}, "leave beta out"),
        ({"rank_mode": "code", "safety_rank": 3}, "leave one of them out"),
        ({"gate": "deterministic", "keep_low": 0.2}, "draws nothing"),
        ({"keep_low": 0.8}, "keep_low is above keep_high"),
        ({"families": ()}, "families is empty"),
        ({"sparsity": 1.0}, "less than 1"),
        ({"safety_rank": 1.5}, "less than 1"),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        NlsrOptions(**changes)


def test_the_row_names_the_edit_and_its_options() -> None:
    (row,) = ROWS
    path, name = row.function.split(":")
    assert getattr(module, name) is nlsr
    assert module.__name__.endswith(f".{path}")
    assert row.options is NlsrOptions
    assert (row.needs, row.probes) == (("base",), ("moments/donor",))
