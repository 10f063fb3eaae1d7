"""Neuron-level safety realignment of real adapters: against its formulas, and its adapter against its checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import load_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapters import Adapters, read_adapter, write_adapter, write_merged
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.transplants.edit.nlsr import decide, nlsr, transplant
from cnt_pipeline.transplants.edit.rows.nlsr import NlsrOptions
from cnt_pipeline.transplants.edit.source import AdapterEdits, Linear, Source
from cnt_pipeline.transplants.edit.write import write_edited
from tests.unit.transplants.edit.test_nlsr import ALL, reference_mask

Array = npt.NDArray[Any]
RANK = 8
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "code": {"amplify": "code", "rank_mode": "code", "mask_scope": "code", "gate": "code", "merge": "code"},
}


def drawn(source: Source, seed: int, alpha: float, ranks: Sequence[int] = (RANK,), skip: int = -1) -> Adapters:
    """Random factors for every matrix but one; `ranks` in turn."""
    lot = torch.Generator().manual_seed(seed)
    factors, alphas = {}, {}
    for place, linear in enumerate(source.linears):
        if place != skip:
            outputs, inputs = source.shape(linear)
            rank = ranks[place % len(ranks)]
            a, b = torch.randn(rank, inputs, generator=lot), torch.randn(outputs, rank, generator=lot)
            factors[linear.module], alphas[linear.module] = (0.1 * a, 0.1 * b), alpha
    return Adapters(factors, alphas)


def trained_on(donor: Adapters, seed: int, alpha: float, skip: str = "") -> Adapters:
    """The donor's adapter after it was moved a little, with another alpha."""
    lot = torch.Generator().manual_seed(seed)
    factors = {
        module: tuple(factor + 0.03 * torch.randn(factor.shape, generator=lot) for factor in pair)
        for module, pair in donor.factors.items()
        if module != skip
    }
    return Adapters(factors, dict.fromkeys(factors, alpha))  # type: ignore[arg-type]


def adapted(source: Source, folder: Path, donor: Adapters, target: Adapters) -> Source:
    """The source with donor and target made from its base by adapters."""
    base = source.models["base"]
    models = {"base": base}
    for role, adapters in (("donor", donor), ("target", target)):
        write_merged(base.folder, adapters, folder / role)
        models[role] = read_index(folder / role)
    return Source(source.architecture, models, source.probes, {"donor": donor, "target": target})


@pytest.fixture
def both(source: Source, tmp_path: Path) -> Source:
    donor = drawn(source, 1, alpha=16.0, skip=3)
    return adapted(source, tmp_path, donor, trained_on(donor, 2, 12.0, skip=source.linears[2].module))


def factors_of(source: Source, role: str, linear: Linear) -> tuple[Array, Array]:
    outputs, inputs = source.shape(linear)
    adapters = source.adapters[role]
    if linear.module not in adapters.factors:
        return np.zeros((outputs, RANK)), np.zeros((RANK, inputs))
    a, b = (factor.numpy().astype(float) for factor in adapters.factors[linear.module])
    root = np.sqrt(adapters.alphas[linear.module] / RANK)
    return root * b, root * a


def reference(source: Source, linear: Linear, changes: dict[str, Any]) -> tuple[float, Array]:
    """The similarity of one matrix and what is added to the base, `[out, in]`, straight from methods section 2."""
    b, a = factors_of(source, "donor", linear)
    b_t, a_t = factors_of(source, "target", linear)
    code = bool(changes)
    directions = (102 if code else 25) * RANK // 128
    moments = load_file(source.probes["moments/donor"] / "function.safetensors")
    inputs = np.linalg.cholesky(moments[f"{linear.module}.second"].numpy().astype(float))
    m_a = reference_mask(a, inputs, directions, 0.8, code)
    m_b = reference_mask(b, a @ inputs, directions, 0.8, code)
    scale = 3.24 if code else 1.9
    b_ref, a_ref = np.sqrt(scale) * b, np.sqrt(scale) * a
    one, other = (m_b * b_ref) @ (m_a * a_ref), (m_b * b_t) @ (m_a * a_t)
    norm = np.sqrt((one**2).sum() * (other**2).sum())
    cosine = float((one * other).sum() / norm) if norm else 0.0
    if code:
        return cosine, (m_b * b_ref + (1 - m_b) * b_t) @ (m_a * a_ref + (1 - m_a) * a_t)
    return cosine, one + ((1 - m_b) * b_t) @ ((1 - m_a) * a_t)


@pytest.mark.parametrize("variant", VARIANTS)
def test_real_factors_follow_the_formulas_in_float64(both: Source, variant: str) -> None:
    options = NlsrOptions(**VARIANTS[variant], **ALL)
    decisions = decide(both, options, seed=0)
    edits = transplant(both, options, decisions)
    ranked = [linear for place, linear in enumerate(both.linears) if place != 3]
    assert [one.tensor for one in decisions] == list(edits) == [linear.tensor for linear in ranked]
    for linear, decision in zip(ranked, decisions, strict=True):
        similarity, change = reference(both, linear, VARIANTS[variant])
        assert decision.similarity == pytest.approx(similarity, rel=1e-6, abs=1e-9)
        wanted = both.weight("base", linear).numpy() + change
        found = edits[linear.tensor]().numpy()
        found = found.T if linear.transposed else found
        assert np.abs(found - wanted).max() <= 1e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_base_and_written_adapter_are_the_edited_checkpoint(both: Source, variant: str, tmp_path: Path) -> None:
    made = nlsr(both, NlsrOptions(**VARIANTS[variant]), seed=3)
    assert isinstance(made, AdapterEdits)
    assert 0 < len(made.edits) < len(both.linears)
    base = both.models["base"]
    write_edited(both.models["target"], made.edits, tmp_path / "edited")
    write_adapter(made.adapter(), base, tmp_path / "adapter")
    write_merged(base.folder, read_adapter(tmp_path / "adapter", base), tmp_path / "merged")
    edited, merged = (load_file(tmp_path / name / "model.safetensors") for name in ("edited", "merged"))
    assert edited.keys() == merged.keys()
    for name, tensor in edited.items():
        assert (tensor - merged[name]).abs().max() <= 1e-6 * tensor.abs().max(), name


def test_peft_reads_the_edited_adapter(make: Callable[[str], Source], tmp_path: Path) -> None:
    from peft import PeftModel

    from cnt_pipeline.models.load import load_model

    plain = make("llama")
    donor = drawn(plain, 1, alpha=16.0)
    source = adapted(plain, tmp_path, donor, trained_on(donor, 2, 16.0))
    made = nlsr(source, NlsrOptions(), seed=0)
    assert isinstance(made, AdapterEdits)
    write_edited(source.models["target"], made.edits, tmp_path / "edited")
    write_adapter(made.adapter(), source.models["base"], tmp_path / "adapter")
    beside = PeftModel.from_pretrained(load_model(source.models["base"].folder), str(tmp_path / "adapter"))
    ids = torch.arange(3, 40).reshape(1, -1)
    with torch.no_grad():
        expected, found = beside(ids).logits, load_model(tmp_path / "edited")(ids).logits
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_target_that_is_the_donor_keeps_its_adapter_where_nothing_is_amplified(
    make: Callable[[str], Source], tmp_path: Path
) -> None:
    plain = make("llama")
    donor = drawn(plain, 1, alpha=16.0)
    source = adapted(plain, tmp_path, donor, donor)
    options = NlsrOptions(beta=0.0, merge="code", **ALL)
    made = nlsr(source, options, seed=0)
    assert isinstance(made, AdapterEdits)
    assert [one.similarity for one in decide(source, options, 0)] == pytest.approx([1.0] * len(source.linears))
    edited = made.adapter()
    for module in donor.factors:
        assert torch.allclose(edited.change(module), donor.change(module), rtol=1e-4, atol=1e-6)


def test_the_option_svd_and_other_ranks_leave_the_adapters_aside(make: Callable[[str], Source], tmp_path: Path) -> None:
    plain = make("llama")
    donor = drawn(plain, 1, alpha=16.0)
    for name, ranks, options in (("svd", (RANK,), {"factors": "svd"}), ("ranks", (RANK, 4), {})):
        source = adapted(plain, tmp_path / name, donor, drawn(plain, 2, 8.0, ranks))
        without = Source(source.architecture, source.models, source.probes)
        made, same = (nlsr(each, NlsrOptions(**options), seed=0) for each in (source, without))  # type: ignore[arg-type]
        assert not isinstance(made, AdapterEdits) and not isinstance(same, AdapterEdits)
        assert list(made) == list(same)
        assert all(torch.equal(made[tensor](), same[tensor]()) for tensor in made)
    with pytest.raises(InputError, match="they have other ranks: train one on from the other, or set factors: svd"):
        nlsr(source, NlsrOptions(factors="adapter"), seed=0)
