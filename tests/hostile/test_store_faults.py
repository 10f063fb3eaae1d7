"""What can happen to a store between runs and in the middle of one: each run ends whole, or with one sentence."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cnt_pipeline.store import Store
from tests.caching.conftest import write_study
from tests.hostile.conftest import Answer, Bench
from tests.hostile.test_faults import says_it_once

RUN = ("run", "{study}", "--store", "{store}")
Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts a small file system in memory on a folder; the test is skipped where that is not allowed."""
    mounted: list[Path] = []

    def make(folder: Path, options: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"this machine does not let the test mount a small disk ({done.stderr.strip()})")
        mounted.append(folder)

    yield make
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, history: Path) -> Path:
    """A folder with the small study and the store of its finished run."""
    root = write_study(tmp_path_factory.mktemp("finished")).root
    answer = Bench(root, lambda words: Answer(0, "", ""), environment={"DAGSTER_HOME": str(history)}).cnt_process(*RUN)
    assert answer.code == 0, answer.err
    return root


@pytest.fixture
def done(bench: Bench, finished: Path) -> Bench:
    """A bench whose study was run to the end."""
    shutil.rmtree(bench.root)
    shutil.copytree(finished, bench.root)
    return bench


def whole(bench: Bench) -> None:
    """Everything under a final name is what its manifest says, and nothing half-made is left."""
    store = Store(bench.store)
    for manifest in store.artifacts():
        assert store.state(manifest.stage, manifest.fingerprint, thorough=True).word == "cached", manifest.key
    assert not bench.leftovers()


def artifact(bench: Bench, key: str) -> Path:
    manifest = next(manifest for manifest in Store(bench.store).artifacts() if manifest.key == key)
    return bench.store_folder / manifest.stage / manifest.fingerprint


def built(answer: Answer) -> set[str]:
    return {step["key"] for step in json.loads(answer.out)["steps"] if step["state"] == "built"}


def flip_a_bit(folder: Path) -> None:
    path = max(
        (p for p in folder.rglob("*") if p.name != "manifest.json" and p.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_a_file(folder: Path) -> None:
    path = next(folder.glob("*.parquet"))
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped bit in the checkpoint": ("transplants/checkpoint", flip_a_bit),
    "a cut Parquet file": ("completions/donor/test", cut_a_file),
    "a missing file": ("neuron_rankings/path", lambda folder: (folder / "ranking.parquet").unlink()),
    "a manifest that is no JSON": ("prompt_sets/roles", lambda folder: (folder / "manifest.json").write_text("{")),
    "a missing manifest": ("evaluations/scores", lambda folder: (folder / "manifest.json").unlink()),
    "an emptied manifest": ("models/pair", lambda folder: (folder / "manifest.json").write_text("")),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_artifact_is_built_again_alone(done: Bench, name: str) -> None:
    key, damage = DAMAGE[name]
    damage(artifact(done, key))
    answer = done.cnt(*RUN, "--json")
    assert answer.code == 0, answer.err
    assert "Traceback" not in answer.err
    assert built(answer) == {key}
    whole(done)


def test_a_manifest_of_a_later_version_is_refused(done: Bench) -> None:
    path = artifact(done, "completions/target/test") / "manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "schema_version": 99}))
    for command in (RUN, ("plan", *RUN[1:]), ("status", *RUN[1:]), ("report", *RUN[1:])):
        says_it_once(done.cnt(*command), 2, ("written by a later cnt_pipeline", "upgrade cnt_pipeline"))
    assert json.loads(path.read_text())["schema_version"] == 99


def test_damaged_memories_of_the_store_cost_nothing_but_time(done: Bench) -> None:
    (done.store_folder / ".digests.sqlite").write_bytes(b"no database")
    for head in (done.store_folder / ".heads").rglob("*.json"):
        head.write_text("{")
    answer = done.cnt(*RUN, "--json")
    assert (answer.code, built(answer)) == (0, set()), answer.err


def test_a_gate_that_fails_exits_with_1_and_still_reports(done: Bench) -> None:
    done.edit(lambda study: study["method"].update(selection="top_k", count=3))
    answer = done.cnt(*RUN, "--json")
    document = json.loads(answer.out)
    assert (answer.code, document["verdict"]) == (1, "fail"), answer.err
    assert Path(document["report"]).is_file()
    assert "Traceback" not in answer.err
    assert not answer.sentences


@pytest.mark.parametrize("size", ["40k", "700k", "1800k"])
def test_a_full_disk_ends_the_run_with_a_sentence(bench: Bench, mount: Mount, size: str) -> None:
    """The smaller disk is full at the first artifacts, the others within caches and the checkpoint."""
    mount(bench.store_folder, f"size={size}")
    says_it_once(bench.cnt(*RUN), 2, (f"The disk of the store {bench.store} is full", "make room (`cnt gc`", "--store"))
    whole(bench)


def test_a_store_that_may_not_be_written_is_refused(bench: Bench, mount: Mount) -> None:
    if os.getuid() == 0:
        mount(bench.store_folder, "ro")
    else:
        bench.store_folder.mkdir(mode=0o500)
    says_it_once(bench.cnt(*RUN), 2, (f"The store {bench.store} may not be used", "allow it, or name another store"))


def test_a_store_that_may_only_be_read_still_answers(done: Bench, mount: Mount) -> None:
    """A finished study in a read-only store: every step is a hit."""
    if os.getuid() != 0:
        pytest.skip("only root can remount a folder read-only")
    kept = done.root / "kept"
    done.store_folder.rename(kept)
    mount(done.store_folder, "size=20m")
    shutil.copytree(kept, done.store_folder, dirs_exist_ok=True)
    subprocess.run(["mount", "-o", "remount,ro", str(done.store_folder)], check=True)
    answer = done.cnt(*RUN, "--json")
    assert (answer.code, built(answer)) == (0, set()), answer.err


def test_a_history_that_cannot_be_written_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.root / "history").write_text("in the way")
    monkeypatch.setenv("DAGSTER_HOME", str(bench.root / "history"))
    says_it_once(bench.cnt(*RUN), 2, ("Dagster's history cannot be written", "name another folder with DAGSTER_HOME"))
    assert not bench.artifacts()


def test_a_damaged_history_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    home = bench.root / "history"
    (home / "history").mkdir(parents=True)
    (home / "history" / "runs.db").write_bytes(b"no database at all, but long enough to be looked at" * 20)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    says_it_once(bench.cnt(*RUN), 2, ("Dagster's history", str(home)))


def test_a_full_disk_of_the_history_ends_the_run_with_a_sentence(
    bench: Bench, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster adds lines of its own to the sentence."""
    home = bench.root / "history"
    mount(home, "size=600k")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    answer = bench.cnt(*RUN)
    assert answer.code == 2, answer.err
    assert "Traceback" not in answer.err
    assert answer.sentences[-1].startswith(f"cnt: Dagster's history in {home} cannot be used")
    whole(bench)


def test_commands_in_a_process_of_their_own_say_the_same(bench: Bench, history: Path) -> None:
    """As a shell starts them: the exit code is the process's, and nothing else reaches standard error."""
    bench.environment = {"DAGSTER_HOME": str(history)}
    bench.put("method.name", "cntt")
    for command in (("check", "{study}"), ("status", *RUN[1:]), RUN):
        says_it_once(bench.cnt_process(*command), 2, ("there is no method 'cntt'",))
