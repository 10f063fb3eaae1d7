"""No bundle, patch or list is a way around the refusal to export a checkpoint that removes refusal."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cnt_pipeline.commands.export import refuse_adapter_of_a_stress_test
from cnt_pipeline.commands.lineage import bundle_study
from cnt_pipeline.commands.patch import apply_patch
from cnt_pipeline.commands.replay import replay_bundle
from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage import envelope, layout
from cnt_pipeline.lineage import verify as verifying
from cnt_pipeline.lineage.keys import read_private_key
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.models.tensors import CheckpointIndex, read_file_index, read_index
from cnt_pipeline.pipeline.outcome import CHECKPOINT, SELECTION
from cnt_pipeline.transplants.plan import read_plan
from tests.unit.lineage import forge
from tests.unit.lineage.conftest import Keys
from tests.unit.lineage.forge import broken
from tests.unit.lineage.made import Made, write_stress_test

ALIGNED = package_path("cnt_pipeline", "demo/models/aligned")
WEIGHTS, PATCH = "model/model.safetensors", "inverse_patch.parquet"
ADAPTER = "adapter/adapter_model.safetensors"


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = write_stress_test(tmp_path_factory.mktemp("stress"))
    made.run()
    return made


@pytest.fixture(scope="module")
def evidence(stress: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evidence") / "bundle"
    bundle_study(
        stress.file, out, stress.store.url, key=None, oms_key=None, weights=True, lineage=True,
        despite_failed_gates=True,
    )  # fmt: skip
    return out


def rows_of(index: CheckpointIndex) -> Iterator[bytes]:
    """The first bytes of every row of every matrix, enough to tell it from any other text."""
    for info in index.tensors.values():
        if len(info.shape) == 2:
            data = index.path(info.file).read_bytes()[info.begin : info.end]
            width = len(data) // info.shape[0]
            yield from (data[at : at + min(width, 32)] for at in range(0, len(data), width))


def test_the_evidence_holds_and_no_row_of_the_checkpoint_or_of_the_donors_adapter_is_in_it(
    stress: Made, evidence: Path
) -> None:
    chain = stress.run()
    checkpoint, donor = (chain.ready[key].folder() for key in (CHECKPOINT, "models/donor"))
    plan = read_plan(chain.ready[SELECTION].path("plan.parquet"))
    assert len(plan) > 0
    target = set(rows_of(read_index(ALIGNED)))
    moved = [data for data in rows_of(read_index(checkpoint / "model")) if data not in target]
    adapter = [data for data in rows_of(read_file_index(donor / "adapter" / "adapter_model.safetensors")) if any(data)]
    assert moved and adapter
    held = b"\0".join(path.read_bytes() for path in sorted(evidence.rglob("*")) if path.is_file())
    assert not any(data in held for data in (*moved, *adapter))
    assert not [path for path in evidence.rglob("*") if path.name.endswith((".safetensors", "patch.parquet"))]
    proof = verify(evidence, Given())
    assert proof.broken is None, proof.broken
    held_elsewhere = verify(evidence, Given(target=ALIGNED, donor=donor / "model", checkpoint=checkpoint / "model"))
    assert any("only the declared neurons changed" in sentence for sentence in held_elsewhere.proven)


def test_neither_the_way_back_nor_the_list_of_neurons_makes_the_checkpoint(stress: Made, tmp_path: Path) -> None:
    folder = stress.run().ready[CHECKPOINT].folder()
    assert not (folder / "patch.parquet").exists()
    with pytest.raises(InputError, match="give it to `cnt revert`"):
        apply_patch(folder / "inverse_patch.parquet", ALIGNED, tmp_path / "out")
    with pytest.raises(InputError, match="no intact forward patch"):
        apply_patch(folder / "neurons.parquet", ALIGNED, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_adapter_of_a_donor_that_deleted_refusal_is_refused_under_any_other_study(stress: Made) -> None:
    with pytest.raises(InputError, match="deleted refusal with the same donor"):
        refuse_adapter_of_a_stress_test(stress.store, stress.run().ready)


def test_a_replay_gives_every_digest_again_and_offers_no_checkpoint(
    evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert replay_bundle(evidence, str(tmp_path / "store"), as_json=False) == 0
    said = capsys.readouterr().out
    assert "differs: " not in said and "not for use" in said
    assert not any(line.startswith("checkpoint") for line in said.splitlines())
    made = next(path for path in (tmp_path / "store" / "transplants").glob("*/manifest.json")
                if json.loads(path.read_text())["key"] == CHECKPOINT)  # fmt: skip
    assert not (made.parent / "patch.parquet").exists()


@pytest.mark.parametrize(
    ("source", "file", "key", "name"),
    [
        (CHECKPOINT, WEIGHTS, CHECKPOINT, WEIGHTS),
        (CHECKPOINT, PATCH, CHECKPOINT, PATCH),
        ("models/donor", ADAPTER, "models/donor", ADAPTER),
        ("models/donor", WEIGHTS, "models/donor", WEIGHTS),
        (CHECKPOINT, WEIGHTS, CHECKPOINT, "model/notes.md"),
        (CHECKPOINT, PATCH, "evaluations/scores", "more.parquet"),
    ],
)
@pytest.mark.parametrize("signed", [False, True])
def test_weights_put_into_its_bundle_are_named_though_everything_agrees(
    stress: Made, copied: Path, keys: Keys, monkeypatch: pytest.MonkeyPatch, source: str, file: str, key: str,
    name: str, signed: bool,
) -> None:  # fmt: skip
    forge.add_file(copied, key, name, stress.run().ready[source].folder() / file)
    given = Given()
    if signed:  # by whoever has the right key
        text = envelope.sign((copied / layout.STATEMENT).read_bytes(), read_private_key(keys.statement))
        (copied / layout.ENVELOPE).write_text(text)
        given = replace(keys.given, oms_key=None)
    found = broken(copied, given)
    assert found.file == f"{key}/{name}" and f"{key}/{name} holds weights" in str(found)
    assert "bundle.json says that this is a stress test" in str(found)
    assert "a stress test's weights must not leave the store" in str(found)
    with pytest.raises(InputError, match="must not leave the store"):
        replay_bundle(copied, None, as_json=True)
    monkeypatch.setattr(verifying, "check_stress_test", lambda bundle, manifests: None)
    assert verify(copied, given).broken is None  # so nothing else tells


def test_whatever_still_says_stress_test_counts(stress: Made, copied: Path) -> None:
    forge.add_file(copied, CHECKPOINT, WEIGHTS, stress.run().ready[CHECKPOINT].folder() / WEIGHTS)

    def rewritten(name: str, change: Callable[[str], str]) -> None:
        (copied / name).write_text(change((copied / name).read_text()))
        forge.agree(copied)

    def without_purpose(text: str) -> str:
        document = json.loads(text)
        del document["slice"]["purpose"]
        return json.dumps(document)

    assert "bundle.json says that this" in str(broken(copied))
    rewritten(layout.INDEX, lambda text: text.replace('"stress_test"', '"transplant"'))
    assert "but study.yaml says that this" in str(broken(copied))
    rewritten(layout.STUDY, lambda text: yaml.safe_dump({**yaml.safe_load(text), "purpose": "transplant"}))
    assert "but study.resolved.json says that this" in str(broken(copied))
    rewritten(layout.RESOLVED, lambda text: json.dumps({**json.loads(text), "purpose": "transplant"}))
    assert f"but manifests/{CHECKPOINT}.json says that this" in str(broken(copied))
    rewritten(layout.manifest_name(CHECKPOINT), without_purpose)
    assert f"but manifests/{SELECTION}.json says that refusal was deleted" in str(broken(copied))


def test_an_export_made_by_hand_is_named(stress: Made, evidence: Path, tmp_path: Path) -> None:
    checkpoint = stress.run().ready[CHECKPOINT].folder()
    out = Path(shutil.copytree(checkpoint / "model", tmp_path / "out"))
    shutil.copytree(evidence, out / "lineage")
    index = replace(forge.index_of(out), exported=True, weights=True)
    (out / "lineage" / layout.INDEX).write_text(index.to_json())
    forge.restate(out / "lineage")
    found = broken(out)
    assert found.file == "model.safetensors" and "must not leave the store" in str(found)
