"""The cosine of neurons of equal index tells models of one base from models that started apart."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnt_pipeline.models.ancestry import SHARED_FROM, Ancestry, ancestry, ancestry_warning, cosines
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.models.tensors import read_array, read_index
from tests.unit.models.conftest import Tiny, build

MODELS = package_path("cnt_pipeline", "demo/models")


def of(target: Path, donor: Path) -> Ancestry:
    return ancestry(read_index(target), read_index(donor), read_architecture(target))


def test_the_packaged_models_share_their_base() -> None:
    for one, other in (("helpful", "aligned"), ("base", "helpful"), ("base", "aligned")):
        found = of(MODELS / one, MODELS / other)
        assert found.shared
        assert found.median_cosine > 0.97
        assert found.share_low == 0
        assert set(found.by_family) == {"q", "k", "v", "o", "gate", "up", "down"}
        assert ancestry_warning(found, "index") is None


def test_models_that_started_apart_share_none(tiny: Tiny, tmp_path: Path) -> None:
    build(tiny.name, tmp_path / "other", seed=7)
    found = of(tiny.folder, tmp_path / "other")
    assert not found.shared
    assert abs(found.median_cosine) < 0.2
    assert found.share_low > 0.9
    warning = ancestry_warning(found, "index")
    assert warning is not None
    assert f"{found.median_cosine:.2f}" in warning and "match: activation" in warning
    assert "residual stream" in (ancestry_warning(found, "activation") or "")


def test_a_model_is_its_own_ancestor(tiny: Tiny) -> None:
    found = of(tiny.folder, tiny.folder)
    assert found.median_cosine == pytest.approx(1)
    assert found.document()["shared"] is True


def test_every_cosine_is_that_of_the_stored_rows_or_columns(tiny: Tiny, tmp_path: Path) -> None:
    build(tiny.name, tmp_path / "other", seed=7)
    index, other = read_index(tiny.folder), read_index(tmp_path / "other")
    architecture = read_architecture(tiny.folder)
    found = cosines(index, other, architecture)
    for matrix in architecture.matrices:
        ours, theirs = (
            np.moveaxis(read_array(i, matrix.tensor).double().numpy(), matrix.axis, 0)[matrix.positions]
            for i in (index, other)
        )
        plain = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
        assert np.allclose(found[matrix.layer, matrix.family], plain, atol=1e-5)


def test_some_layers_are_enough_for_a_first_look(tiny_models: Callable[[str], Tiny]) -> None:
    folder = tiny_models("llama").folder
    index, architecture = read_index(folder), read_architecture(folder)
    assert {layer for layer, _ in cosines(index, index, architecture, layers=[1])} == {1}
    assert ancestry(index, index, architecture, layers=[1]).shared


def test_a_dead_neuron_is_like_a_dead_one_and_unlike_a_live_one(
    llama_folder: Callable[..., Path],
    rewrite_tensors: Callable[[Path, Callable[[dict[str, Any]], dict[str, Any]]], None],
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"

    def kill(rows: list[int]) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def change(tensors: dict[str, Any]) -> dict[str, Any]:
            tensors[name][rows] = 0
            return tensors

        return change

    target, donor = llama_folder("target"), llama_folder("donor")
    rewrite_tensors(target, kill([3, 4]))
    rewrite_tensors(donor, kill([3]))
    found = cosines(read_index(target), read_index(donor), read_architecture(target))[0, "up"]
    assert found[3] == 1
    assert found[4] == 0
    assert found[5] == pytest.approx(1)


def test_a_store_type_of_half_the_width_changes_nothing_of_note(tmp_path: Path) -> None:
    import torch

    model = build("llama", tmp_path / "wide", seed=3)
    for dtype in (torch.bfloat16, torch.float16):
        model.to(dtype).save_pretrained(tmp_path / str(dtype))
        found = of(tmp_path / "wide", tmp_path / str(dtype))
        assert found.median_cosine > 0.9999 > SHARED_FROM
