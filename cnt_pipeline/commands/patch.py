"""`cnt apply` and `cnt revert`: a transplant done and undone by its patches, bit for bit."""

from pathlib import Path

from cnt_pipeline.commands.console import out
from cnt_pipeline.errors import InputError


def apply_patch(patch: Path, target: Path, destination: Path) -> None:
    """Make the checkpoint of a transplant from its forward patch and the target.

    Raises:
        CntError: a damaged patch, or one of another target; `destination` holds something or cannot be written.
    """
    from cnt_pipeline.transplants.patching import apply

    if not patch.is_file():
        raise InputError(f"{patch} is no file: give the patch.parquet that `cnt export` wrote")
    made = apply(patch, target, destination)
    out().print(
        f"{destination} holds the checkpoint, bit for bit: {len(made.files)} files with their recorded digests, beside "
        "them the inverse patch",
        markup=False,
        soft_wrap=True,
    )


def revert_checkpoint(checkpoint: Path, destination: Path, patch: Path | None) -> None:
    """Restore the target of a transplant from its checkpoint and inverse patch.

    Raises:
        CntError: no patch, or one of another checkpoint; `destination` holds something or cannot be written.
    """
    from cnt_pipeline.transplants.patch import INVERSE
    from cnt_pipeline.transplants.patching import revert

    if not checkpoint.is_dir():
        raise InputError(f"{checkpoint} is no folder: give the checkpoint that `cnt run` names at its end")
    model = checkpoint / "model" if (checkpoint / "model").is_dir() else checkpoint
    places = (model / INVERSE.file, model.parent / INVERSE.file)
    found = patch or next((place for place in places if place.is_file()), None)
    if found is None:
        raise InputError(f"no inverse patch lies in or beside {model}: name it with --patch")
    restored = revert(model, found, destination)
    out().print(
        f"{destination} holds the target again, bit for bit: {len(restored.files)} files with its recorded digests",
        markup=False,
        soft_wrap=True,
    )
