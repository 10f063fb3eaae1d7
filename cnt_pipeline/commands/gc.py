"""`cnt gc`: remove what no study reaches."""

from collections.abc import Sequence
from pathlib import Path

from cnt_pipeline.commands.console import out, table
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.quantities import size_text
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study


def collect(studies: Sequence[Path], store: str | None, dry_run: bool) -> None:
    """Remove artifacts that are neither the newest of a step of any study nor in the plan of one of `studies`.

    Raises:
        CntError: a study file is at fault, or the store cannot be written.
    """
    opened = Store(store_url(store))
    keep = {(head.manifest.stage, head.manifest.fingerprint) for head in opened.heads()}
    for path in studies:
        planned = plan(load_study(path), opened)
        keep |= {(each.step.stage, each.request.fingerprint) for each in planned if each.request}
    removed = opened.collect(keep, dry_run)
    console = out()
    if removed:
        rows = ((each.kind, each.key or "", each.name, size_text(each.size)) for each in removed)
        console.print(table(("what", "step", "name", "size"), rows, right=("size",)))
    word = "would be removed" if dry_run else "removed"
    total = size_text(sum(each.size for each in removed))
    console.print(
        f"{len(removed)} {'entry' if len(removed) == 1 else 'entries'} {word}, {total}, from {opened.url}", markup=False
    )
