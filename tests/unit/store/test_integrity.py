"""Damage is noticed, named and repaired; what cannot be used says what to do."""

import errno
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.store import BuildRequest, Store, digests, local, publish

Ask = Callable[..., BuildRequest]


def _missing(path: Path) -> None:
    path.unlink()


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _altered(path: Path) -> None:
    stat = path.stat()
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


def _replaced(path: Path) -> None:
    stat = path.stat()
    copy = path.with_name("copy")
    copy.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    os.utime(copy, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    copy.replace(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_missing, "shards/0.bin is missing"),
        (_truncated, "shards/0.bin has 6 bytes, its manifest says 7"),
        (_altered, "shards/0.bin has other content than its manifest says"),
        (_replaced, "shards/0.bin has other content than its manifest says"),
        (_folder, "shards/0.bin is no file"),
    ],
)
def test_a_damaged_file_is_named_and_the_step_built_again(
    store: Store, builder: Any, ask: Ask, harm: Callable[[Path], None], reason: str
) -> None:
    artifact = store.get_or_build(ask(), builder).artifact
    harm(artifact.path("shards/0.bin"))
    assert store.state("transplants", ask().fingerprint) == ("broken", reason)
    assert store.explain(ask()) == f"damaged: {reason}"
    with pytest.raises(BrokenArtifactError, match=reason):
        store.get("transplants", ask().fingerprint)
    rebuilt = store.get_or_build(ask(), builder)
    assert not rebuilt.hit and rebuilt.artifact.digest == artifact.digest
    assert store.state("transplants", ask().fingerprint) == ("cached", "")
    assert store.collect({("transplants", ask().fingerprint)}) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "manifest.json is missing"),
        ("", "not readable JSON"),
        ("[]", "not a manifest"),
        ('{"schema_version": 1}', "lacks fields"),
    ],
)
def test_a_damaged_manifest_is_damage(store: Store, builder: Any, ask: Ask, text: str | None, reason: str) -> None:
    manifest = store.get_or_build(ask(), builder).artifact.folder() / "manifest.json"
    manifest.unlink() if text is None else manifest.write_text(text)
    state = store.state("transplants", ask().fingerprint)
    assert state.word == "broken" and reason in state.reason
    assert list(store.artifacts()) == []
    assert not store.get_or_build(ask(), builder).hit


def test_a_manifest_cannot_vouch_for_altered_files(store: Store, builder: Any, ask: Ask) -> None:
    path = store.get_or_build(ask(), builder).artifact.folder() / "manifest.json"
    document = json.loads(path.read_text())
    document["files"]["table.parquet"]["sha256"] = "0" * 64
    path.write_text(json.dumps(document))
    assert "altered" in store.state("transplants", ask().fingerprint).reason


def test_an_artifact_under_another_name_is_damage(store: Store, builder: Any, ask: Ask) -> None:
    artifact = store.get_or_build(ask(), builder).artifact
    other = ask(version=2).fingerprint
    artifact.folder().rename(artifact.folder().with_name(other))
    assert store.state("transplants", other) == ("broken", "manifest.json belongs to another artifact")


def test_a_later_schema_is_refused_and_left_as_it_is(store: Store, builder: Any, ask: Ask) -> None:
    path = store.get_or_build(ask(), builder).artifact.folder() / "manifest.json"
    later = path.read_text().replace('"schema_version": 1', '"schema_version": 99')
    path.write_text(later)
    for use in (
        lambda: store.get("transplants", ask().fingerprint),
        lambda: store.get_or_build(ask(), builder),
        lambda: store.collect(set()),
    ):
        with pytest.raises(StoreError, match="upgrade cnt_pipeline"):
            use()
    assert path.read_text() == later and builder.calls == 1


def test_an_unchanged_artifact_is_not_read_again(
    store: Store, builder: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = store.get_or_build(ask(), builder).artifact
    read: list[Path] = []
    monkeypatch.setattr(local, "hash_file", lambda path: read.append(path) or digests.hash_file(path))
    assert store.state("transplants", ask().fingerprint).word == "cached"
    assert read == []
    os.utime(artifact.path("table.parquet"), (1, 1))
    for _ in range(2):
        assert Store(store.url).state("transplants", ask().fingerprint).word == "cached"
    assert read == [artifact.path("table.parquet")]


def test_a_thorough_look_trusts_no_remembered_digest(store: Store, builder: Any, ask: Ask) -> None:
    path = store.get_or_build(ask(), builder).artifact.path("table.parquet")
    stat = path.stat()
    path.write_text("ROWS")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.state("transplants", ask().fingerprint).word == "cached"
    assert store.state("transplants", ask().fingerprint, thorough=True).word == "broken"


def test_the_digest_of_a_file_is_remembered_until_the_file_changes(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("weights")
    os.utime(path, (1, 1))
    read: list[Path] = []
    monkeypatch.setattr(digests, "hash_file", lambda path: read.append(path) or f"digest {len(read)}")
    assert [store.file_digest(path), Store(store.url).file_digest(path)] == ["digest 1", "digest 1"]
    os.utime(path, (2, 2))
    assert store.file_digest(path) == "digest 2"


def test_a_file_written_just_now_is_not_remembered(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("one")
    stat = path.stat()
    before = store.file_digest(path)
    path.write_text("two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert store.file_digest(path) != before


def test_a_damaged_memory_of_digests_costs_reading_and_nothing_else(store: Store, builder: Any, ask: Ask) -> None:
    store.get_or_build(ask(), builder)
    memory = Path(store.url, ".digests.sqlite")
    memory.write_bytes(b"no database" * 1000)
    assert store.get_or_build(ask(), builder).hit
    assert store.get_or_build(ask(), builder).hit
    assert memory.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize("shell", ["Device: No space left on device (os error 28)", None])
def test_a_full_disk_met_by_the_builder_is_one_sentence(
    store: Store, ask: Ask, final_names: Any, shell: str | None
) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise RuntimeError(shell) if shell else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match=r"is full .* make room .* or name another store"):
        store.get_or_build(ask(), build)
    assert list(Path(store.url, "transplants").iterdir()) == []


@pytest.mark.parametrize("step", ["_sync", "sync_folder"])
def test_a_full_disk_met_while_sealing_leaves_nothing(
    store: Store, builder: Any, ask: Ask, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(publish, step, full)
    with pytest.raises(StoreError, match="is full"):
        store.get_or_build(ask(), builder)
    assert list(Path(store.url, "transplants").iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 256 kB; skipped where this user may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting a tmpfs needs root; the tests with a raised ENOSPC cover the same path")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_really_full_disk_leaves_nothing_and_room_lets_the_build_pass(small_disk: Path, ask: Ask) -> None:
    store = Store(small_disk / "store")
    size = 400_000

    def build(folder: Path) -> None:
        (folder / "content").write_bytes(bytes(size))

    with pytest.raises(StoreError, match=r"is full \(0\.\d MB free\)"):
        store.get_or_build(ask(), build)
    assert list(Path(store.url, "transplants").iterdir()) == []
    size = 1000
    assert not store.get_or_build(ask(), build).hit


def test_a_disk_that_has_no_byte_left_still_answers_hits(small_disk: Path, builder: Any, ask: Ask) -> None:
    store = Store(small_disk / "store")
    store.get_or_build(ask(), builder)
    with pytest.raises(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    assert store.get_or_build(ask(study="another"), builder).hit
    with pytest.raises(StoreError, match="is full"):
        store.get_or_build(ask(version=2), builder)


def test_a_read_only_store_answers_hits_and_refuses_builds(small_disk: Path, builder: Any, ask: Ask) -> None:
    store = Store(small_disk / "store")
    store.get_or_build(ask(), builder)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert store.get_or_build(ask(study="another"), builder).hit
    with pytest.raises(StoreError, match="may not be used"):
        store.get_or_build(ask(version=2), builder)


def test_a_root_that_is_a_file_is_refused(tmp_path: Path, builder: Any, ask: Ask) -> None:
    root = tmp_path / "file"
    root.write_text("mine")
    for store in (Store(root), Store(root / "below")):
        with pytest.raises(StoreError, match=f"where a file lies, {root}: move it"):
            store.get_or_build(ask(), builder)
        with pytest.raises(StoreError, match="where a file lies"):
            store.state("transplants", ask().fingerprint)
    assert root.read_text() == "mine" and builder.calls == 0


def test_a_root_that_cannot_be_made_is_refused(builder: Any, ask: Ask) -> None:
    with pytest.raises(StoreError, match="name another store"):
        Store("/proc/cnt-store").get_or_build(ask(), builder)
    assert builder.calls == 0


def test_an_unknown_protocol_is_refused_when_the_store_is_opened() -> None:
    with pytest.raises(StoreError, match=r"foo://bucket.*name a folder or an fsspec URL"):
        Store("foo://bucket/store")


def test_asking_writes_nothing(tmp_path: Path, ask: Ask) -> None:
    store = Store(tmp_path / "store")
    assert store.state("transplants", ask().fingerprint).word == "missing"
    assert store.get("transplants", ask().fingerprint) is None
    assert store.explain(ask()) == "never built"
    assert store.heads() == [] and list(store.artifacts()) == []
    assert store.collect(set(), dry_run=True) == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_may_be_moved(store: Store, builder: Any, ask: Ask, tmp_path: Path) -> None:
    store.get_or_build(ask(), builder)
    Path(store.url).rename(tmp_path / "moved")
    assert Store(tmp_path / "moved").get_or_build(ask(), builder).hit
    assert Store(f"file://{tmp_path}/moved").get_or_build(ask(), builder).hit


@pytest.mark.parametrize("name", ["../escape", "abc", "A" * 64])
def test_a_name_that_is_no_fingerprint_is_refused(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="no artifact can be called"):
        store.get("transplants", name)
