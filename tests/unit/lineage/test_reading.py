"""`cnt verify` hashes every file once; weights are read a second time only to compare them byte by byte."""

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.lineage import digests
from cnt_pipeline.lineage.digests import file_and_tensor_digests
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.store import digests as store_digests
from tests.unit.lineage.conftest import DONOR, TARGET, Keys

BOTH = Given(target=TARGET, donor=DONOR)
Read = Callable[[Path, Given], Counter[Path]]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Verifies, and counts the bytes that were hashed or read from weights, by file."""
    counted: Counter[Path] = Counter()
    hash_file, preadv = store_digests.hash_file, os.preadv

    def hashing(path: Path) -> str:
        counted[path] += path.stat().st_size
        return hash_file(path)

    def reading(descriptor: int, buffers: Any, offset: int) -> int:
        done = preadv(descriptor, buffers, offset)
        counted[Path(f"/proc/self/fd/{descriptor}").readlink()] += done
        return done

    monkeypatch.setattr(digests, "hash_file", hashing)
    monkeypatch.setattr(store_digests, "hash_file", hashing)
    monkeypatch.setattr(os, "preadv", reading)

    def verified(path: Path, given: Given) -> Counter[Path]:
        counted.clear()
        assert verify(path, given).broken is None
        return Counter(counted)

    return verified


def data_size(folder: Path) -> int:
    """Bytes of a model's tensors."""
    return sum(info.size for info in read_index(folder).tensors.values())


def size(path: Path) -> int:
    return path.stat().st_size


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_without_the_models_every_file_of_a_bundle_is_read_once(bundle: Path, keys: Keys, read: Read) -> None:
    found = read(bundle, replace(keys.given, oms_key=None))
    weights = bundle / "transplants/checkpoint/model/model.safetensors"
    assert found[weights] == size(weights)
    outside_the_index = {"statement.intoto.json", "statement.dsse.json", "model.sig"}  # read as text, not hashed
    assert {path.name: found[path] for path in files_below(bundle) if found[path] != size(path)} == dict.fromkeys(
        outside_the_index, 0
    )


def test_with_the_models_weights_are_read_twice_and_the_donors_neurons_beside_its_digest(
    bundle: Path, read: Read
) -> None:
    """Once for the digests of file and tensors, once beside the other model: which bytes may differ is known only when
    the list of neurons is proven to be the one that was signed."""
    found = read(bundle, BOTH)
    for weights in (bundle / "transplants/checkpoint/model/model.safetensors", TARGET / "model.safetensors"):
        assert found[weights] == 2 * size(weights)
    donor = DONOR / "model.safetensors"
    assert size(donor) < found[donor] <= size(donor) + data_size(DONOR)
    others = [path for folder in (bundle, TARGET) for path in files_below(folder) if path.suffix != ".safetensors"]
    assert all(found[path] <= size(path) for path in others)


def test_an_export_is_read_as_often_as_a_bundle(exported: Path, keys: Keys, read: Read) -> None:
    weights = exported / "model.safetensors"
    assert read(exported, replace(keys.given, oms_key=None))[weights] == size(weights)
    assert read(exported, BOTH)[weights] == 2 * size(weights)


def test_a_checkpoint_held_elsewhere_is_read_once_as_is_the_bundles_own(
    bundle: Path, exported: Path, read: Read
) -> None:
    found = read(bundle, Given(checkpoint=exported))
    for weights in (bundle / "transplants/checkpoint/model/model.safetensors", exported / "model.safetensors"):
        assert found[weights] == size(weights)


def test_the_digests_of_one_pass_are_those_of_the_bytes(tmp_path: Path) -> None:
    path = Path(shutil.copy(TARGET / "model.safetensors", tmp_path))
    sha256, tensors = file_and_tensor_digests(path)
    data = path.read_bytes()
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert tensors == {
        info.name: hashlib.sha256(data[info.begin : info.end]).hexdigest()
        for info in read_index(TARGET).tensors.values()
    }
    path.write_bytes(b"no safetensors file")
    assert file_and_tensor_digests(path) == (hashlib.sha256(b"no safetensors file").hexdigest(), {})
