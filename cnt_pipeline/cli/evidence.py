"""Commands that carry a result out of the store, prove it, and repeat it."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cnt_pipeline.cli.app import JsonOption, KeyOption, StoreOption, StudyFile, app


class KeyKind(StrEnum):
    """Kinds of keys that `cnt keygen` makes."""

    ed25519 = "ed25519"
    p256 = "p256"


@app.command()
def export(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    store: StoreOption = None,
    despite_failed_gates: Annotated[
        bool, typer.Option("--despite-failed-gates", help="Export although a quality gate failed.")
    ] = False,
    key: KeyOption = None,
) -> None:
    """Copy a finished transplant out of the store: model card, proof, patches, list of neurons and lineage."""
    from cnt_pipeline.commands.export import export_transplant

    export_transplant(study, out, store, despite_failed_gates, key)


@app.command("apply")
def apply_(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="Forward patch of a transplant (patch.parquet).")],
    target: Annotated[Path, typer.Option("--target", metavar="FOLDER", help="The model that it was made for.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
) -> None:
    """Make a transplant's checkpoint from its patch and the target, bit for bit."""
    from cnt_pipeline.commands.patch import apply_patch

    apply_patch(patch, target, out)


@app.command()
def revert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a transplant.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    patch: Annotated[
        Path | None, typer.Option(help="Inverse patch, where it does not lie with the checkpoint.")
    ] = None,
) -> None:
    """Restore the target of a transplant, bit for bit."""
    from cnt_pipeline.commands.patch import revert_checkpoint

    revert_checkpoint(checkpoint, out, patch)


@app.command()
def bundle(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    store: StoreOption = None,
    key: KeyOption = None,
    oms_key: Annotated[
        Path | None,
        typer.Option("--oms-key", metavar="KEYFILE", help="P-256 key that signs the folder as model-signing does."),
    ] = None,
    no_weights: Annotated[
        bool,
        typer.Option(
            "--no-weights", help="Leave the checkpoint's weights and the donor's adapter out; their digests stay."
        ),
    ] = False,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="Add OpenLineage events.")] = False,
    despite_failed_gates: Annotated[
        bool, typer.Option("--despite-failed-gates", help="Bundle although a quality gate failed.")
    ] = False,
) -> None:
    """Put all evidence of a finished study into one folder that a reviewer can check alone."""
    from cnt_pipeline.commands.lineage import bundle_study

    bundle_study(
        study,
        out,
        store,
        key=key,
        oms_key=oms_key,
        weights=not no_weights,
        lineage=openlineage,
        despite_failed_gates=despite_failed_gates,
    )


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File for the private key; the public key gets its name and .pub.")],
    kind: Annotated[
        KeyKind, typer.Option(help="ed25519 signs statements, p256 whole folders as model-signing does.")
    ] = KeyKind.ed25519,
) -> None:
    """Make a key that signs bundles."""
    from cnt_pipeline.commands.lineage import make_keys

    make_keys(path, kind.value)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Bundle, or checkpoint that `cnt export` wrote.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="Key that must have signed the statement.")
    ] = None,
    oms_key: Annotated[
        Path | None, typer.Option("--oms-key", metavar="FILE", help="Key that must have signed the folder.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The target's folder or GGUF file, to compare byte for byte.")
    ] = None,
    donor: Annotated[
        Path | None, typer.Option(metavar="PATH", help="The donor's folder or GGUF file, to compare byte for byte.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The checkpoint that you hold, instead of the bundle's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a bundle or an exported checkpoint, or name the first link that is broken (exit code 1)."""
    from cnt_pipeline.commands.lineage import verify_path
    from cnt_pipeline.lineage.keys import read_public_key
    from cnt_pipeline.lineage.verify import Given

    given = Given(read_public_key(public_key) if public_key else None, oms_key, target, donor, checkpoint)
    raise typer.Exit(verify_path(path, given, as_json))


@app.command()
def replay(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `cnt bundle` wrote.")],
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Store to build in. Default: BUNDLE.replay, beside the bundle."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle's study again and say of every step whether its result is the same (exit code 1: it is not)."""
    from cnt_pipeline.commands.replay import replay_bundle

    raise typer.Exit(replay_bundle(bundle, store, as_json))
