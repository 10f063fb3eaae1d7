"""Three tiny related models of an architecture and random probe files, as an edit reads them."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.study.schema import KINDS
from cnt_pipeline.transplants.edit.source import Source
from tests.unit.models.conftest import build

SOURCES = ("llama", "qwen2", "gpt2", "phi3")
"""Grouped-query attention with biases, tied embeddings, transposed matrices, fused matrices."""


def make_source(name: str, folder: Path) -> Source:
    """Target, donor and base of an architecture (independent random weights), with moments and saliencies of each."""
    torch.set_num_threads(1)
    models = {}
    for seed, role in enumerate(("target", "donor", "base")):
        build(name, folder / role, seed=seed)
        models[role] = read_index(folder / role)
    source = Source(read_architecture(folder / "target"), models)
    lot = torch.Generator().manual_seed(7)
    probes = {}
    for role in models:
        for probe in ("moments", "saliency"):
            probes[f"{probe}/{role}"] = folder / f"{probe}-{role}"
            probes[f"{probe}/{role}"].mkdir()
        for kind in KINDS:
            moments, saliency = {}, {}
            for linear in source.linears:
                weight = source.weight(role, linear)
                inputs = torch.randn(90, weight.shape[1], generator=lot) * torch.rand(weight.shape[1], generator=lot)
                inputs += torch.randn(weight.shape[1], generator=lot) * 0.3
                moments[f"{linear.module}.mean"] = inputs.mean(0)
                moments[f"{linear.module}.second"] = inputs.T @ inputs / len(inputs)
                moments[f"{linear.module}.tokens"] = torch.tensor(len(inputs))
                values = torch.rand(weight.shape, generator=lot) * weight.abs()
                saliency[linear.tensor] = source.stored(linear, values)
            save_file(moments, probes[f"moments/{role}"] / f"{kind}.safetensors")
            save_file(saliency, probes[f"saliency/{role}"] / f"{kind}.safetensors")
    source.probes = probes
    return source


@pytest.fixture(scope="session", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Source:
    """The source of every architecture in turn; read only."""
    return make_source(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Source]:
    """A source of one architecture by name."""
    return lambda name: make_source(name, tmp_path_factory.mktemp(name))
