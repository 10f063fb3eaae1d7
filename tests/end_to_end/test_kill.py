"""`kill -9` at any moment: nothing half-made under a final name, and the next run ends where an undisturbed
one ends."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cnt_pipeline.pipeline.step import VERSIONS
from cnt_pipeline.store import Manifest, Store
from tests.caching.conftest import write_study
from tests.end_to_end.conftest import Shell, end

ATTEMPTS = 6
PUBLISH_KILLS = 10
_LOOK_SECONDS = 0.001


@dataclass
class Reference:
    """An undisturbed run: its store, its study, and by step its digest and fingerprint."""

    shell: Shell
    study: Path
    digests: dict[str, str]
    manifests: dict[str, Manifest] = field(default_factory=dict)


@pytest.fixture(scope="module")
def reference(shell: Callable[[str], Shell]) -> Reference:
    quiet = shell("undisturbed")
    study = write_study(quiet.root).study_file
    document = quiet.finish("run", str(study), "--json")
    manifests = {manifest.fingerprint: manifest for manifest in Store(quiet.store).artifacts()}
    return Reference(quiet, study, {step["key"]: step["digest"] for step in document["steps"]}, manifests)


def staging(store: Path, stage: str) -> set[str]:
    """Fingerprints of the steps of `stage` that are being built."""
    return {path.name.split(".")[1] for kind in ("building", "resumable") for path in store.glob(f"{stage}/.*.{kind}")}


def assert_whole(store: Path, reference: Reference) -> None:
    """Whatever has a final name is complete, and is what the undisturbed run made."""
    opened = Store(store)
    for stage in VERSIONS:
        for folder in (store / stage).glob("[0-9a-f]*"):
            assert opened.state(stage, folder.name, thorough=True).word == "cached", folder
            artifact = opened.get(stage, folder.name)
            assert artifact is not None
            assert artifact.digest == reference.manifests[folder.name].digest, artifact.manifest.key


def wait_for_building(process: subprocess.Popen[str], store: Path, stage: str, skip: int) -> str | None:
    """The fingerprint of the step of `stage` that is begun after `skip` others, None when the run ended before."""
    seen: set[str] = set()
    while process.poll() is None:
        now = staging(store, stage)
        seen |= now
        if now and len(seen) > skip:
            return now.pop()
        time.sleep(_LOOK_SECONDS)
    return None


def kill_inside(stage: str, shell: Shell, reference: Reference, chance: random.Random, attempt: int) -> bool:
    """Kill a run within a step of `stage`, at a moment of the step's usual time; whether the step was under way.

    Later attempts come earlier, for steps that are over in no time.
    """
    left = sum(m.stage == stage for m in reference.manifests.values()) - len(
        list((shell.store / stage).glob("[0-9a-f]*"))
    )
    if left < 1:
        shutil.rmtree(chance.choice(sorted((shell.store / stage).glob("[0-9a-f]*"))))
        left = 1
    for leftover in (shell.store / stage).glob(".*"):
        shutil.rmtree(leftover)
    process = shell.start("run", str(reference.study), "--json")
    step = wait_for_building(process, shell.store, stage, chance.randrange(min(left, 3)))
    if step is not None:
        time.sleep(chance.random() * reference.manifests[step].seconds / attempt**2)
    code, err = end(process, signal.SIGKILL) if process.poll() is None else (process.wait(), "")
    assert "Traceback" not in err
    return code == -signal.SIGKILL and step in staging(shell.store, stage)


def test_a_run_killed_in_every_stage_ends_as_an_undisturbed_one(
    reference: Reference, shell: Callable[[str], Shell]
) -> None:
    killed = shell("killed")
    chance = random.Random(20)
    moments: dict[str, int] = {}
    for stage in VERSIONS:
        for attempt in range(1, ATTEMPTS + 1):
            inside = kill_inside(stage, killed, reference, chance, attempt)
            assert_whole(killed.store, reference)
            if inside:
                moments[stage] = attempt
                break
    assert set(moments) == set(VERSIONS), "some stage was always over before its kill"
    document = killed.finish("run", str(reference.study), "--json")
    assert {step["key"]: step["digest"] for step in document["steps"]} == reference.digests
    assert not any(staging(killed.store, stage) for stage in VERSIONS)


KITCHEN = """
import os, sys
import assets.in_process
import cnt_pipeline.commands.run
from cnt_pipeline.cli import app

for line in sys.stdin:
    child = os.fork()
    if child:
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(status, flush=True)
    else:
        os.setsid()
        sys.stdin.close()
        sys.stdout = open(os.devnull, "w")
        app(line.split())
"""
"""Runs `cnt` in a forked child for every line it is given, which saves the imports: prints its pid, then its status."""


@pytest.fixture
def kitchen(reference: Reference, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Shell]]:
    """The process above, and a copy of the finished store to work in."""
    place = Shell(tmp_path, tmp_path / "store")
    shutil.copytree(reference.shell.store, place.store)
    process = subprocess.Popen(
        [sys.executable, "-c", KITCHEN], env=place.environment, cwd=tmp_path, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    yield process, place
    process.kill()
    process.communicate()


def test_rapid_kills_while_a_stage_is_published_leave_it_whole_or_absent(
    reference: Reference, kitchen: tuple[subprocess.Popen[str], Shell]
) -> None:
    """Kills around the moment when the nine files of `prompt_sets/roles` are hashed, sealed and renamed."""
    process, place = kitchen
    assert process.stdin is not None and process.stdout is not None
    chance = random.Random(7)
    stage = place.store / "prompt_sets"
    published = list[bool]()
    delay = 0.01
    while len(published) < PUBLISH_KILLS or len(set(published)) == 1:
        assert len(published) < 4 * PUBLISH_KILLS, "every kill came on the same side of the publish"
        shutil.rmtree(stage)
        process.stdin.write(f"run {reference.study} --json\n")
        process.stdin.flush()
        child = int(process.stdout.readline())
        while not any(stage.glob(".*/test.utility.parquet")):
            time.sleep(_LOOK_SECONDS)
        time.sleep(delay * chance.random())
        os.killpg(child, signal.SIGKILL)
        assert int(process.stdout.readline()) == signal.SIGKILL
        assert_whole(place.store, reference)
        published.append(any(stage.glob("[0-9a-f]*")))
        delay *= 0.7 if published[-1] else 1.5  # close in on the moment of the rename
    document = place.finish("run", str(reference.study), "--json")
    assert {step["key"]: step["digest"] for step in document["steps"]} == reference.digests
