"""gc removes what nothing keeps, and nothing else."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.store import BuildRequest, Store

Ask = Callable[..., BuildRequest]
Start = Callable[..., subprocess.Popen[str]]


def _name(request: BuildRequest) -> tuple[str, str]:
    return request.stage, request.fingerprint


def test_only_what_nothing_keeps_is_removed(any_store: Store, builder: Any, ask: Ask) -> None:
    kept, dropped = ask(), ask(version=2, key="transplants/other")
    any_store.get_or_build(kept, builder)
    any_store.get_or_build(dropped, builder)
    planned = any_store.collect({_name(kept)}, dry_run=True)
    assert any_store.state(*_name(dropped)).word == "cached"
    removed = any_store.collect({_name(kept)})
    assert removed == planned
    assert [(entry.kind, entry.key) for entry in removed] == [
        ("artifact", "transplants/other"),
        ("head", "transplants/other"),
    ]
    assert removed[0].name == f"transplants/{dropped.fingerprint}"
    assert all(entry.size > 0 for entry in removed)
    assert any_store.state(*_name(dropped)).word == "missing"
    assert any_store.state(*_name(kept)).word == "cached"
    assert [manifest.fingerprint for manifest in any_store.artifacts()] == [kept.fingerprint]
    assert any_store.collect({_name(kept)}) == []


def test_artifacts_can_be_listed_by_stage(any_store: Store, builder: Any, ask: Ask) -> None:
    any_store.get_or_build(ask(), builder)
    any_store.get_or_build(ask(stage="reports"), builder)
    assert [manifest.stage for manifest in any_store.artifacts()] == ["reports", "transplants"]
    assert [manifest.stage for manifest in any_store.artifacts("reports")] == ["reports"]


def test_what_is_being_built_stays(any_store: Store, builder: Any, ask: Ask) -> None:
    removed = []

    def build(folder: Path) -> Any:
        metadata = builder(folder)
        removed.extend([*any_store.collect(set(), dry_run=True), *any_store.collect(set())])
        return metadata

    any_store.get_or_build(ask(), build)
    assert removed == []
    assert any_store.get_or_build(ask(), build).hit


def test_what_a_killed_build_left_is_removed(store: Store, ask: Ask, start: Start) -> None:
    script = """
        import os, signal, sys
        from cnt_pipeline.store import BuildRequest, Store

        def build(folder):
            (folder / "half").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        for_whom, resumable = sys.argv[2], sys.argv[3] == "resumable"
        Store(sys.argv[1]).get_or_build(BuildRequest("k", "models", 1, {}, {}, for_whom, resumable), build)
    """
    for kind in ("plain", "resumable"):
        start(script, store.url, "s", kind).wait()
    fingerprint = ask(stage="models", slice={}, inputs={}).fingerprint
    kept = store.collect({("models", fingerprint)}, dry_run=True)
    assert [entry.name for entry in kept] == [f"models/.{fingerprint}.building"]
    removed = store.collect(set())
    assert [(entry.kind, entry.name, entry.size) for entry in removed] == [
        ("staging", f"models/.{fingerprint}.building", 4),
        ("staging", f"models/.{fingerprint}.resumable", 4),
    ]
    assert list(Path(store.url, "models").iterdir()) == []
    assert list(Path(store.url, ".locks").iterdir()) == []


def test_foreign_files_in_the_root_are_left_alone(store: Store, builder: Any, ask: Ask) -> None:
    store.get_or_build(ask(), builder)
    mine = Path(store.url, "notes", "a.txt")
    mine.parent.mkdir()
    mine.write_text("mine")
    Path(store.url, "transplants", "readme").write_text("mine")
    store.collect(set())
    assert mine.read_text() == "mine"
    assert [path.name for path in Path(store.url, "transplants").iterdir()] == ["readme"]


@pytest.mark.parametrize("made_by_us", [True, False])
def test_git_is_told_to_ignore_only_a_folder_that_the_store_made(
    tmp_path: Path, builder: Any, ask: Ask, made_by_us: bool
) -> None:
    root = tmp_path / "store"
    if not made_by_us:
        root.mkdir()
    Store(root).get_or_build(ask(), builder)
    assert (root / ".gitignore").exists() == made_by_us
