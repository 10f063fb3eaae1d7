"""A bucket has no rename: content first, the manifest last."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cnt_pipeline.errors import BrokenArtifactError, StoreError
from cnt_pipeline.store import BuildRequest, Store, layout, locks
from cnt_pipeline.store.remote import RemotePlace

Ask = Callable[..., BuildRequest]
Start = Callable[..., subprocess.Popen[str]]

BUCKET = "memory://remote/store"


@pytest.fixture
def memory() -> Any:
    files = fsspec.filesystem("memory")
    yield files
    if files.exists("/remote"):
        files.rm("/remote", recursive=True)


@pytest.fixture
def machine(tmp_path: Path, memory: Any) -> Callable[[str], Store]:
    """The bucket as machines of different names see it: each has a cache of its own."""
    return lambda name: Store(BUCKET, cache=tmp_path / name)


def test_what_one_machine_built_another_fetches_and_verifies(
    machine: Callable[[str], Store], builder: Any, ask: Ask
) -> None:
    digest = machine("a").get_or_build(ask(), builder).artifact.digest
    there = machine("b").get_or_build(ask(), builder)
    assert there.hit and there.artifact.digest == digest and builder.calls == 1
    assert there.artifact.path("shards/0.bin").read_text() == "weights"
    assert (there.artifact.folder() / "table.parquet").read_text() == "rows"


def test_a_file_is_fetched_once_and_again_when_the_copy_is_damaged(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a").get_or_build(ask(), builder)
    artifact = machine("b").get("transplants", ask().fingerprint)
    assert artifact
    fetched: list[str] = []
    real = type(memory).get_file
    monkeypatch.setattr(
        type(memory),
        "get_file",
        lambda self, there, *a, **k: fetched.append(there) or real(self, there, *a, **k),
    )
    for _ in range(2):
        path = artifact.path("table.parquet")
    assert len(fetched) == 1
    path.write_text("damaged")
    assert artifact.path("table.parquet").read_text() == "rows"
    assert len(fetched) == 2


def test_an_object_of_another_size_is_damage_that_the_next_request_repairs(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask
) -> None:
    machine("a").get_or_build(ask(), builder)
    memory.pipe_file(f"/remote/store/transplants/{ask().fingerprint}/table.parquet", b"short rows")
    store = machine("b")
    assert store.state("transplants", ask().fingerprint) == (
        "broken",
        "table.parquet has 10 bytes, its manifest says 4",
    )
    assert not store.get_or_build(ask(), builder).hit
    assert machine("c").state("transplants", ask().fingerprint).word == "cached"


def test_an_object_of_equal_size_is_found_out_when_it_is_fetched(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask
) -> None:
    machine("a").get_or_build(ask(), builder)
    memory.pipe_file(f"/remote/store/transplants/{ask().fingerprint}/table.parquet", b"ROWS")
    store = machine("b")
    artifact = store.get_or_build(ask(), builder).artifact
    with pytest.raises(BrokenArtifactError, match="other content"):
        artifact.path("table.parquet")
    assert store.state("transplants", ask().fingerprint).word == "broken"
    rebuilt = store.get_or_build(ask(), builder)
    assert not rebuilt.hit and rebuilt.artifact.path("table.parquet").read_text() == "rows"
    assert machine("c").state("transplants", ask().fingerprint, thorough=True).word == "cached"


def test_a_thorough_look_reads_every_object(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask
) -> None:
    store = machine("a")
    store.get_or_build(ask(), builder)
    memory.pipe_file(f"/remote/store/transplants/{ask().fingerprint}/table.parquet", b"ROWS")
    assert store.state("transplants", ask().fingerprint).word == "cached"
    assert store.state("transplants", ask().fingerprint, thorough=True).word == "broken"


def test_an_upload_that_fails_is_one_sentence_and_no_artifact(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = machine("a")

    def refused(*arguments: Any, **named: Any) -> None:
        raise PermissionError("access denied")

    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "put_file", refused)
        with pytest.raises(StoreError, match=r"memory://remote/store cannot be used .*access denied.*credentials"):
            store.get_or_build(ask(), builder)
    assert store.state("transplants", ask().fingerprint).word == "missing"
    assert not store.get_or_build(ask(), builder).hit


def test_an_upload_without_manifest_is_missing_and_removed_by_gc(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask
) -> None:
    store = machine("a")
    store.get_or_build(ask(), builder)
    memory.rm_file(f"/remote/store/transplants/{ask().fingerprint}/manifest.json")
    assert store.state("transplants", ask().fingerprint).word == "missing"
    removed = store.collect({("transplants", ask().fingerprint)})
    assert [entry.kind for entry in removed] == ["artifact", "head"]
    assert memory.find(f"/remote/store/transplants/{ask().fingerprint}") == []


def test_a_process_killed_between_two_uploads_leaves_no_artifact_and_no_lasting_lock(
    builder: Any, ask: Ask, start: Start, tmp_path: Path
) -> None:
    script = """
        import sys
        from pathlib import Path
        from cnt_pipeline.store import BuildRequest, Store
        from cnt_pipeline.store.remote import RemotePlace

        class Slow(RemotePlace):
            def write(self, name, data):
                if name.endswith("manifest.json"):
                    print("uploaded", flush=True)
                    sys.stdin.readline()
                super().write(name, data)

        def build(folder):
            (folder / "table.parquet").write_text("rows")

        store = Store("unused")
        store._place = Slow(sys.argv[1], Path(sys.argv[2]))
        store.get_or_build(BuildRequest("k", "models", 1, {}, {}, "s"), build)
    """
    url, cache = f"file://{tmp_path}/bucket", tmp_path / "cache"
    process = start(script, url, cache)
    assert process.stdout and process.stdout.readline() == "uploaded\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    request = ask(stage="models", slice={}, inputs={})
    store = Store(tmp_path / "unused")
    store._place = RemotePlace(url, cache)
    assert (tmp_path / "bucket" / layout.lock("models", request.fingerprint)).exists()
    assert store.state("models", request.fingerprint).word == "missing"
    assert not store.get_or_build(request, builder).hit
    assert not (tmp_path / "bucket" / layout.lock("models", request.fingerprint)).exists()


def _lease(owner: str, expires: float) -> bytes:
    record = {"holder": "process 1 on elsewhere", "owner": owner, "token": "t", "expires": expires}
    return json.dumps(record).encode()


def test_a_living_lease_of_another_machine_is_waited_for(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    store = machine("a")
    lock = f"/remote/store/{layout.lock('transplants', ask().fingerprint)}"
    memory.pipe_file(lock, _lease("elsewhere", time.time() + 1000))
    assert store.collect(set()) == []
    monkeypatch.setattr(locks.time, "sleep", lambda seconds: memory.rm_file(lock))
    with caplog.at_level("INFO"):
        assert not store.get_or_build(ask(), builder).hit
    assert "waiting for transplants/refusal: process 1 on elsewhere is building it" in caplog.messages


@pytest.mark.parametrize("content", [_lease("elsewhere", 1.0), b"", b"{", b"[]"])
def test_an_expired_or_unreadable_lease_is_taken_over(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask, content: bytes
) -> None:
    lock = f"/remote/store/{layout.lock('transplants', ask().fingerprint)}"
    memory.pipe_file(lock, content)
    assert not machine("a").get_or_build(ask(), builder).hit
    assert not memory.exists(lock)


def test_a_lease_is_renewed_while_its_holder_lives(
    machine: Callable[[str], Store], memory: Any, builder: Any, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE_SECONDS", 0.03)
    lock = f"/remote/store/{layout.lock('transplants', ask().fingerprint)}"

    def build(folder: Path) -> Any:
        first = json.loads(memory.cat_file(lock))["expires"]
        while json.loads(memory.cat_file(lock))["expires"] == first:
            time.sleep(0.005)
        return builder(folder)

    assert not machine("a").get_or_build(ask(), build).hit
