"""Other people's tools read what a bundle says, and agree."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from model_signing import hashing, verifying
from openlineage.client.event_v2 import RunState
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from cnt_pipeline.lineage.keys import key_id, read_public_key, write_keys
from tests.unit.lineage.conftest import DONOR, TARGET, Keys


def read(path: Path) -> Any:
    return json.loads(path.read_bytes())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def public(path: Path) -> SSlibKey:
    return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))  # type: ignore[arg-type]


def test_securesystemslib_verifies_the_envelope_and_names_the_key_as_we_do(made_bundle: Path, keys: Keys) -> None:
    envelope = Envelope.from_dict(read(made_bundle / "statement.dsse.json"))
    key = public(keys.folder / "statement.pub")
    assert list(envelope.verify([key], 1)) == [key.keyid]
    assert key.keyid == key_id(read_public_key(keys.folder / "statement.pub"))
    assert envelope.payload == (made_bundle / "statement.intoto.json").read_bytes()
    assert envelope.payload_type == "application/vnd.in-toto+json"


def test_securesystemslib_refuses_another_key(made_bundle: Path, tmp_path: Path) -> None:
    envelope = Envelope.from_dict(read(made_bundle / "statement.dsse.json"))
    _, other = write_keys(tmp_path / "other")
    with pytest.raises(VerificationError):
        envelope.verify([public(other)], 1)


def test_the_statement_is_slsa_provenance_of_the_files_that_lie_there(made_bundle: Path) -> None:
    statement = read(made_bundle / "statement.intoto.json")
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    named = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert {name: sha256(made_bundle / name) for name in named} == named
    assert {"bundle.json", "reports/page/report.html", "transplants/checkpoint/model/model.safetensors"} <= named.keys()
    definition, details = (statement["predicate"][part] for part in ("buildDefinition", "runDetails"))
    assert definition["externalParameters"]["studySha256"] == sha256(made_bundle / "study.yaml")
    used = {each["name"]: each["digest"]["sha256"] for each in definition["resolvedDependencies"]}
    for role, folder in (("target", TARGET), ("donor", DONOR)):
        assert used[f"models/{role}/model.safetensors"] == sha256(folder / "model.safetensors")
    prompts = "prompt_sets/roles/test.function.parquet"
    assert used[prompts] == sha256(made_bundle / prompts)
    assert details["builder"]["id"] and details["metadata"]["startedOn"] < details["metadata"]["finishedOn"]


def test_the_bom_is_strict_cyclonedx_with_a_model_card(made_bundle: Path) -> None:
    text = (made_bundle / "bom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bom = json.loads(text)
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model"
    figures = {(row["type"], row["slice"]): float(row["value"]) for row in model["modelCard"]["quantitativeAnalysis"][
        "performanceMetrics"]}  # fmt: skip
    verdict = read(made_bundle / "evaluations/verdict/verdict.json")
    assert verdict["verdict"] == "pass"
    assert figures["refusal", "target"] < figures["refusal", "transplant"]
    files = {part["name"]: part["hashes"][0]["content"] for part in model["components"]}
    weights = "model/model.safetensors"
    assert files[weights] == sha256(made_bundle / "transplants/checkpoint" / weights)
    parts = {part["bom-ref"] for part in bom["components"]}
    assert {ref["ref"] for ref in model["modelCard"]["modelParameters"]["datasets"]} < parts
    assert {"models/target", "models/donor"} < parts


def test_model_signing_verifies_the_folder_and_refuses_a_changed_one(bundle: Path, keys: Keys) -> None:
    signature = bundle / "model.sig"

    def check() -> None:
        ignored = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
        config = verifying.Config().use_elliptic_key_verifier(public_key=keys.folder / "oms.pub")
        config.set_hashing_config(ignored).verify(bundle, signature)

    check()
    (bundle / "study.yaml").write_text("study: other\n")
    with pytest.raises(ValueError, match=r"study\.yaml"):
        check()


def test_every_step_is_an_openlineage_event_that_names_its_inputs(made_bundle: Path) -> None:
    events = [json.loads(line) for line in (made_bundle / "openlineage.jsonl").read_text().splitlines()]
    steps = read(made_bundle / "bundle.json")["steps"]
    by_step = {event["job"]["name"].removeprefix("mini/"): event for event in events}
    assert len(events) == len(steps) and by_step.keys() == steps.keys()
    for step, inputs in steps.items():
        event = by_step[step]
        assert event["eventType"] == RunState.COMPLETE.value
        read_there = {each["name"].removeprefix("mini/") for each in event["inputs"]}
        assert read_there == {link["step"] for link in inputs.values()}
        manifest = read(made_bundle / "manifests" / f"{step}.json")
        assert event["outputs"][0]["facets"]["version"]["datasetVersion"] == manifest["digest"]
    assert len({event["run"]["runId"] for event in events}) == len(events)
