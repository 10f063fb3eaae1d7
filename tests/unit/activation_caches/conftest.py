"""Tiny pairs of models and the prompts that the probes are asked about."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cnt_pipeline.activation_caches.probes.effect import Objective
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.gates import GatedSwap
from cnt_pipeline.models.load import load_model
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.models.tensors import read_index
from tests.unit.models.conftest import build

torch.set_num_threads(1)


@dataclass(frozen=True)
class Asked:
    """A gated swap with objectives of one or two answers each, of several lengths."""

    swap: GatedSwap
    objectives: list[Objective]


def examples(count: int) -> list[Example]:
    return [Example(tuple(3 + (7 * i + 11 * j * j) % 60 for j in range(4 + i % 6)), 1 + i % 3) for i in range(count)]


def objectives(count: int) -> list[Objective]:
    """Every other prompt compares two answers, as the transfer objective does."""
    kept = examples(count)
    wanted = [Example((*e.tokens[: e.start], 9 + i % 40, 5, 12), e.start) for i, e in enumerate(kept)]
    return [
        Objective(((new, 1.0), (old, -1.0))) if i % 2 else Objective(((old, 1.0),))
        for i, (new, old) in enumerate(zip(wanted, kept, strict=True))
    ]


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., GatedSwap]:
    """The swap of a random model with one whose neurons go a share of the way towards another random model's."""
    made: dict[tuple[str, float], GatedSwap] = {}

    def get(name: str, blend: float = 1.0) -> GatedSwap:
        if (name, blend) not in made:
            target, donor = tmp_path_factory.mktemp(f"{name}-target"), tmp_path_factory.mktemp(f"{name}-donor")
            build(name, target)
            build(name, donor, seed=1)
            architecture = read_architecture(target)
            neurons = {m.tensor for m in architecture.matrices} | {m.bias for m in architecture.matrices}
            move_towards(target, donor, {name for name in neurons if name is not None}, blend)
            made[name, blend] = GatedSwap(load_model(target), architecture, read_index(donor), read_index(target))
        return made[name, blend]

    return get


def move_towards(target: Path, donor: Path, neurons: set[str], blend: float) -> None:
    ours, theirs = load_file(target / "model.safetensors"), load_file(donor / "model.safetensors")
    mixed = {k: torch.lerp(v, theirs[k], blend) if k in neurons else v for k, v in ours.items()}
    save_file({k: v.contiguous() for k, v in mixed.items()}, donor / "model.safetensors", {"format": "pt"})


@pytest.fixture
def asked(pairs: Callable[..., GatedSwap]) -> Asked:
    return Asked(pairs("llama"), objectives(11))
