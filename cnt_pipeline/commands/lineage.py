"""`cnt bundle`, `cnt keygen` and `cnt verify`: evidence that leaves the store, and its proof by whoever receives it."""

from pathlib import Path

from cnt_pipeline.commands.console import err, out, print_document
from cnt_pipeline.commands.export import (
    finished,
    passed,
    refuse_adapter_of_a_stress_test,
    refuse_made_for_a_stress_test,
)
from cnt_pipeline.lineage import keys
from cnt_pipeline.lineage.documents import BrokenLink, VerifyDocument
from cnt_pipeline.lineage.folder import whole_folder
from cnt_pipeline.lineage.record import Proof
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.lineage.write import Signing, write_bundle
from cnt_pipeline.pipeline.outcome import CHECKPOINT
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study

PROOF_BROKEN = 1


def bundle_study(
    path: Path,
    destination: Path,
    store: str | None,
    *,
    key: Path | None,
    oms_key: Path | None,
    weights: bool,
    lineage: bool,
    despite_failed_gates: bool,
) -> None:
    """Write what a reviewer needs of the study in `path` to `destination`; a stress test's weights never leave.

    Raises:
        InputError: the study is not run as it is now, what is bundled removes refusal, or a key or package is missing.
        GateError: a quality gate failed.
        StoreError: `destination` holds something or cannot be written, or the store is damaged.
    """
    study, opened = load_study(path), Store(store_url(store))
    signing = Signing(keys.read_private_key(key) if key else None, oms_key)
    material = finished(study, opened, path)
    stress_test = study.purpose == "stress_test"
    if weights and not stress_test:
        refuse_made_for_a_stress_test(opened, material.ready[CHECKPOINT])
        refuse_adapter_of_a_stress_test(opened, material.ready)
    verdict = passed(material, despite_failed_gates)
    with whole_folder(destination) as folder:
        index = write_bundle(material, folder, signing, weights=weights and not stress_test, lineage=lineage)
    size = size_text(sum(record.size for record in index.files.values()))
    said = [f"{destination} holds the evidence of {study.study}: {len(index.files)} files, {size}"]
    if stress_test:
        said.append(
            "the checkpoint of a stress test is not for use: weights, patches and a donor's adapter were left out"
        )
    elif not weights:
        said.append("the checkpoint's weights were left out; their digests are in it")
    said.append("its statement is signed" if key else "it is not signed: give --key with a key that `cnt keygen` made")
    if verdict["verdict"] != "pass":
        said.append(f"it failed quality gates: {verdict['sentence']}")
    for sentence in said:
        out().print(sentence, markup=False, soft_wrap=True)


def make_keys(path: Path, kind: keys.Kind) -> None:
    """Make a private key and its public key beside it.

    Raises:
        CntError: one of them exists, or cannot be written.
    """
    private, public = keys.write_keys(path, kind)
    for sentence in (f"{private} signs: keep it to yourself", f"{public} checks it: give it to reviewers"):
        out().print(sentence, markup=False, soft_wrap=True)


def verify_path(path: Path, given: Given, as_json: bool) -> int:
    """Prove the bundle or exported checkpoint in `path`; 0, or 1 where a proof is broken.

    Raises:
        InputError: `path` is neither, or something that was given cannot be used.
        StoreError: there is no room to dequantise a GGUF file.
    """
    for model in (given.target, given.donor):
        if model is not None and model.is_file():
            err().print(
                f"{model.name} is dequantised once it is known to be the file that the study read: that takes time, "
                "and memory and disk for the model in float32",
                markup=False,
                soft_wrap=True,
            )
    proof = verify(path, given)
    if as_json:
        print_document(_document(path, proof))
    else:
        _print(proof)
    return PROOF_BROKEN if proof.broken else 0


def _document(path: Path, proof: Proof) -> VerifyDocument:
    broken = proof.broken
    return VerifyDocument(
        path=str(path),
        study=proof.study or None,
        verdict="broken" if broken else "holds",
        index_sha256=proof.index_digest or None,
        proven=proof.proven,
        unchecked=proof.unchecked,
        broken=broken
        and BrokenLink(file=broken.file, sentence=str(broken), expected=broken.expected, found=broken.found),
    )


def _print(proof: Proof) -> None:
    console = out()
    for mark, style, sentences in (("proven", "green", proof.proven), ("unchecked", "yellow", proof.unchecked)):
        for sentence in sentences:
            console.print(f"[{style}]{mark:10}[/]", end="")
            console.print(sentence, markup=False, soft_wrap=True)
    if proof.broken:
        console.print(f"[bold red]{'broken':10}[/]", end="")
        console.print(str(proof.broken), markup=False, soft_wrap=True)
        return
    console.print(f"[bold green]{'holds':10}[/]", end="")
    console.print(
        f"the proof of {proof.study} holds as far as it was checked; bundle.json has the SHA-256 {proof.index_digest}",
        markup=False,
        soft_wrap=True,
    )
