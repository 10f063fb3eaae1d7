"""A build is published whole, once, or not at all."""

import json
import logging
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from cnt_pipeline.errors import StoreError
from cnt_pipeline.store import BuildRequest, Store

Ask = Callable[..., BuildRequest]
Start = Callable[..., subprocess.Popen[str]]

# Builds the step of `ask` in a process of its own; prints at each point at which it can be stopped.
BUILD_SLOWLY = """
    import logging, sys
    from pathlib import Path
    from cnt_pipeline.store import BuildRequest, Store
    from cnt_pipeline.store import local, publish

    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    logging.getLogger("cnt_pipeline.store.store").setLevel(logging.ERROR)
    root, point, resumable = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "resumable"

    def stop(here):
        if here == point:
            print("stopped", flush=True)
            sys.stdin.readline()

    def build(folder):
        (folder / "shards").mkdir(exist_ok=True)
        (folder / "shards" / "0.bin").write_text("weights")
        stop("half built")
        (folder / "table.parquet").write_text("rows")
        return {"rows": 3}

    def before(module, name, here):
        real = getattr(module, name)
        setattr(module, name, lambda *a, **k: (stop(here), real(*a, **k))[1])

    before(publish, "_settle", "built")
    before(publish, "content_digest", "hashed")
    before(local.LocalPlace, "_set_aside", "sealed")
    before(local, "sync_folder", "renamed")
    request = BuildRequest("transplants/refusal", "transplants", 1, {"method": {"name": "cnt", "eta": [1]}},
                           {"prompt_sets": "a" * 64, "target": "b" * 64}, "refusal", resumable)
    built = Store(root).get_or_build(request, build)
    print("hit" if built.hit else "built", built.artifact.digest, flush=True)
"""


def test_a_second_request_is_a_hit_with_the_same_files(any_store: Store, builder: Any, ask: Ask) -> None:
    first = any_store.get_or_build(ask(), builder)
    second = any_store.get_or_build(ask(), builder)
    assert (first.hit, second.hit, builder.calls) == (False, True, 1)
    assert second.artifact.digest == first.artifact.digest
    assert second.artifact.path("shards/0.bin").read_text() == "weights"
    assert sorted(second.artifact.manifest.files) == ["shards/0.bin", "table.parquet"]
    assert second.artifact.manifest.metadata == {"rows": 3, "call": 1}


def test_going_to_another_study_and_back_builds_nothing(any_store: Store, builder: Any, ask: Ask) -> None:
    a, b = ask(), ask(slice={"method": {"name": "cnt", "eta": [1, 2]}})
    hits = [any_store.get_or_build(request, builder).hit for request in (a, b, a, b, a)]
    assert hits == [False, False, True, True, True]
    assert builder.calls == 2


def test_the_digest_depends_on_content_and_not_on_time_or_metadata(
    store: Store, make_builder: Any, ask: Ask, tmp_path: Path
) -> None:
    first = store.get_or_build(ask(), make_builder()).artifact
    late = make_builder()
    late.calls = 7
    again = Store(tmp_path / "elsewhere").get_or_build(ask(), late).artifact
    other = Store(tmp_path / "third").get_or_build(ask(), make_builder("other weights")).artifact
    assert again.manifest.metadata != first.manifest.metadata
    assert again.digest == first.digest != other.digest


def test_a_subset_of_files_has_a_digest_of_its_own(store: Store, make_builder: Any, ask: Ask) -> None:
    one = store.get_or_build(ask(), make_builder("one")).artifact
    two = store.get_or_build(ask(version=2), make_builder("two")).artifact
    assert one.digest_of(["*.parquet"]) == two.digest_of(["table.parquet"])
    assert one.digest_of(["shards/*"]) != two.digest_of(["shards/*"])
    assert one.digest_of(None) == one.digest == one.digest_of(["*"])
    with pytest.raises(KeyError, match="no file"):
        one.digest_of(["missing.*"])


@pytest.mark.parametrize("point", ["half built", "built", "hashed", "sealed"])
def test_a_killed_build_leaves_nothing_under_a_final_name(
    point: str, store: Store, builder: Any, ask: Ask, start: Start, final_names: Any
) -> None:
    process = start(BUILD_SLOWLY, store.url, point, "plain")
    assert process.stdout and process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert final_names(Path(store.url)) == []
    assert store.state("transplants", ask().fingerprint).word == "missing"
    built = store.get_or_build(ask(), builder)
    undisturbed = Store(Path(store.url).parent / "undisturbed").get_or_build(ask(), builder)
    assert not built.hit
    assert built.artifact.digest == undisturbed.artifact.digest
    assert [path.name for path in Path(store.url, "transplants").iterdir()] == [ask().fingerprint]


def test_a_build_killed_after_its_rename_is_whole(store: Store, builder: Any, ask: Ask, start: Start) -> None:
    process = start(BUILD_SLOWLY, store.url, "renamed", "plain")
    assert process.stdout and process.stdout.readline() == "stopped\n"
    # The first folder that is synced is still the staging folder's own: let those pass.
    while store.state("transplants", ask().fingerprint).word == "missing":
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.get_or_build(ask(), builder).hit


def test_a_build_killed_while_replacing_a_damaged_artifact_can_be_built_again(
    store: Store, builder: Any, ask: Ask, start: Start
) -> None:
    whole = store.get_or_build(ask(), builder).artifact
    whole.path("table.parquet").write_text("damaged")
    process = start(BUILD_SLOWLY, store.url, "renamed", "plain")
    assert process.stdout and process.stdout.readline() == "stopped\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert store.get_or_build(ask(), builder).artifact.digest == whole.digest
    assert store.state("transplants", ask().fingerprint).word == "cached"


def test_only_a_resumable_step_finds_what_a_killed_build_left(store: Store, ask: Ask, start: Start) -> None:
    for resumable in ("plain", "resumable"):
        process = start(BUILD_SLOWLY, store.url, "half built", resumable)
        assert process.stdout and process.stdout.readline() == "stopped\n"
        process.send_signal(signal.SIGKILL)
        process.wait()

    seen: list[list[str]] = []

    def build(folder: Path) -> None:
        seen.append(sorted(path.name for path in folder.rglob("*")))
        (folder / "done").write_text("")

    store.get_or_build(ask(resumable=True), build)
    store.get_or_build(ask(version=2), build)
    assert seen == [["0.bin", "shards"], []]


def test_two_processes_build_a_step_once_and_the_second_waits_for_the_first(
    store: Store, ask: Ask, start: Start
) -> None:
    first = start(BUILD_SLOWLY, store.url, "half built", "plain")
    assert first.stdout and first.stdin and first.stdout.readline() == "stopped\n"
    second = start(
        BUILD_SLOWLY,
        store.url,
        "never",
        "plain",
    )
    assert second.stdout
    waiting = second.stdout.readline()
    assert waiting.startswith(f"waiting for transplants/refusal: process {first.pid} on ")
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.stdout.readline().startswith("built ")
    assert second.stdout.readline().startswith("hit ")


def test_threads_of_one_process_build_a_step_once(any_store: Store, builder: Any, ask: Ask) -> None:
    began, go_on = Event(), Event()
    hits: list[bool] = []

    def build(folder: Path) -> dict[str, Any]:
        began.set()
        assert go_on.wait(10)
        metadata: dict[str, Any] = builder(folder)
        return metadata

    threads = [Thread(target=lambda: hits.append(any_store.get_or_build(ask(), build).hit)) for _ in range(3)]
    threads[0].start()
    assert began.wait(10)
    for thread in threads[1:]:
        thread.start()
    go_on.set()
    for thread in threads:
        thread.join(20)
    assert sorted(hits) == [False, True, True]
    assert builder.calls == 1


def test_a_forked_worker_that_outlives_its_parent_does_not_keep_the_lock(
    store: Store, builder: Any, ask: Ask, start: Start
) -> None:
    script = """
        import os, sys, time
        from pathlib import Path
        from cnt_pipeline.store import local
        with local.LocalPlace(Path(sys.argv[1])).holding("transplants", sys.argv[2], "step"):
            worker = os.fork()
            if worker == 0:
                os.close(1)
                time.sleep(20)
                os._exit(0)
            print(worker, flush=True)
            sys.stdin.readline()
    """
    process = start(script, store.url, ask().fingerprint)
    assert process.stdout
    worker = int(process.stdout.readline())
    try:
        process.kill()
        assert not store.get_or_build(ask(), builder).hit
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("resumable", [False, True])
def test_a_builder_that_raises_leaves_nothing(any_store: Store, ask: Ask, resumable: bool) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ZeroDivisionError("the builder's own")

    with pytest.raises(ZeroDivisionError, match="own"):
        any_store.get_or_build(ask(resumable=resumable), build)
    assert any_store.state("transplants", ask().fingerprint).word == "missing"
    assert any_store.collect(set()) == []


@pytest.mark.parametrize(("resumable", "left"), [(False, []), (True, ["half"])])
def test_an_interrupt_keeps_only_what_can_be_resumed(store: Store, ask: Ask, resumable: bool, left: list[str]) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_build(ask(resumable=resumable), interrupted)
    assert [path.name for path in Path(store.url, "transplants").glob(".*/*")] == left


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda folder: None, "wrote no file"),
        (lambda folder: (folder / "manifest.json").write_text("{}"), "keeps for itself"),
        (lambda folder: (folder / "link").symlink_to("/etc/hostname"), "no plain file"),
    ],
)
def test_what_cannot_be_stored_is_refused_in_words(
    store: Store, ask: Ask, final_names: Any, fault: Callable[[Path], Any], words: str
) -> None:
    def build(folder: Path) -> None:
        fault(folder)

    with pytest.raises(StoreError, match=words):
        store.get_or_build(ask(), build)
    assert final_names(Path(store.url)) == []


def test_metadata_of_numpy_and_paths_is_stored_as_plain_json(store: Store, ask: Ask) -> None:
    numpy = pytest.importorskip("numpy")

    def build(folder: Path) -> dict[str, Any]:
        (folder / "content").write_text("x")
        return {
            "n": numpy.int64(3),
            "nan": float("nan"),
            "v": numpy.array([1.5, 2]),
            "p": Path("a"),
            "t": (1,),
        }

    manifest = store.get_or_build(ask(), build).artifact.manifest
    assert manifest.metadata == {"n": 3, "nan": None, "v": [1.5, 2.0], "p": "a", "t": [1]}
    stored = Path(store.url, "transplants", manifest.fingerprint, "manifest.json").read_text()
    assert json.loads(stored)["metadata"] == manifest.metadata


def test_an_annotation_enters_no_digest(any_store: Store, builder: Any, ask: Ask) -> None:
    artifact = any_store.get_or_build(ask(), builder).artifact
    any_store.annotate(artifact, "README.md", "# a card")
    any_store.annotate(artifact, "README.md", "# a better card")
    again = any_store.get_or_build(ask(), builder)
    assert again.hit and again.artifact.digest == artifact.digest
    assert any_store.annotation(artifact, "README.md") == "# a better card"
    for name in ("table.parquet", "manifest.json", "../README.md"):
        with pytest.raises(ValueError, match="cannot annotate"):
            any_store.annotate(artifact, name, "x")


def test_a_build_says_when_it_replaces_a_damaged_artifact(
    store: Store, builder: Any, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    store.get_or_build(ask(), builder).artifact.path("table.parquet").unlink()
    with caplog.at_level(logging.WARNING):
        store.get_or_build(ask(), builder)
    assert caplog.messages == ["transplants/refusal is damaged (table.parquet is missing): building it again"]


def test_importing_the_store_loads_no_heavy_package(start: Start) -> None:
    script = """
        import sys
        import cnt_pipeline.store
        heavy = {"torch", "transformers", "numpy", "polars", "duckdb", "pyarrow", "pydantic", "fsspec"}
        print(sorted(heavy & set(sys.modules)))
    """
    output, _ = start(script).communicate(timeout=20)
    assert output == "[]\n"


def test_locks_and_staging_are_gone_after_a_build(store: Store, builder: Any, ask: Ask) -> None:
    store.get_or_build(ask(), builder)
    left = {path.relative_to(store.url).parts[0] for path in Path(store.url).rglob("*") if path.is_file()}
    assert left == {".gitignore", ".digests.sqlite", ".heads", "transplants"}
    assert list(Path(store.url, ".locks").iterdir()) == []
