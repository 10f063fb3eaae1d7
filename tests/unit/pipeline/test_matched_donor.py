"""A donor whose channels and heads were shuffled is as good as the original once it is paired by activation."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.permute import Permutation, write_permuted
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.chain import Chain
from cnt_pipeline.pipeline.donor_steps import NTRR
from cnt_pipeline.pipeline.step import MATCHED
from cnt_pipeline.pipeline.steps import steps_of_donor
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from tests.conftest import STUDY

BUDGET = 0.12
"""Share of the parameters at which the packaged donor's best neurons carry its function."""


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packaged donor in another order of channels and heads."""
    source = package_path("cnt_pipeline", "demo/models/aligned")
    architecture = read_architecture(source)
    random = np.random.default_rng(0)
    share = architecture.heads // architecture.kv_heads
    layers = range(architecture.layers)
    heads = {
        layer: np.concatenate(
            [g * share + random.permutation(share) for g in random.permutation(architecture.kv_heads)]
        )
        for layer in layers
    }
    out = tmp_path_factory.mktemp("donor") / "shuffled"
    order = Permutation({layer: random.permutation(architecture.ffn) for layer in layers}, heads)
    write_permuted(read_index(source), architecture, order, out)
    return out


def chain_of(folder: Path, name: str, match: str, donor: Path | None) -> Chain:
    torch.set_num_threads(1)
    document = yaml.safe_load(STUDY) | {"study": name, "match": match, "controls": {"random_seeds": 1}}
    if donor:
        document["models"]["donor"] = {"path": str(donor)}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    study = load_study(path)
    steps = steps_of_donor(study, BUDGET)
    chain = Chain(study, Store(folder / "store"), steps=steps)
    for step in steps:
        chain.take(step.key)
    return chain


def document(chain: Chain, key: str, file: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(chain.artifact(key).path(file).read_text())
    return found


def ntrr(chain: Chain) -> float:
    found = document(chain, NTRR, "ntrr.json")["ntrr"]
    assert isinstance(found, dict)
    return float(found["value"])


def test_pairing_by_activation_restores_a_shuffled_donor(shuffled: Path, tmp_path: Path) -> None:
    original = chain_of(tmp_path, "original", "index", None)
    by_index = chain_of(tmp_path, "by-index", "index", shuffled)
    by_activation = chain_of(tmp_path, "by-activation", "activation", shuffled)
    assert ntrr(original) > 0.8
    assert ntrr(by_activation) > ntrr(original) - 0.15
    assert ntrr(by_index) < 0.2
    kin = {chain: document(chain, "models/pair", "comparison.json") for chain in (original, by_index, by_activation)}
    assert kin[original]["ancestry"]["shared"] is True  # type: ignore[index]
    assert kin[by_index]["ancestry"]["shared"] is False  # type: ignore[index]
    assert "match: activation" in str(kin[by_index]["warnings"])
    assert "as the study asks" in str(kin[by_activation]["warnings"])
    cosine = document(by_activation, MATCHED, "matching.json")["median_cosine"]
    assert cosine["index"] < 0.5 < 0.95 < cosine["activation"]  # type: ignore[index]
