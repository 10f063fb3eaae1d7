"""`cnt ui` as a user meets it: the real web server, asked by GraphQL and looked at in a browser."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from assets.checks import GATES
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.load import load_study
from tests.conftest import Project

if TYPE_CHECKING:
    from playwright.sync_api import Browser


pytestmark = pytest.mark.timeout(600)

START_SECONDS, RUN_SECONDS, STOP_SECONDS = 120, 300, 60

NODES = """{ assetNodes { assetKey { path } dependencyKeys { path } groupName jobNames kinds } }"""
LOCATION = """{ repositoriesOrError { ... on RepositoryConnection { nodes { name location { name } } } } }"""
LAUNCH = """
mutation($repository: String!, $location: String!) {
  launchRun(executionParams: {
    selector: {repositoryName: $repository, repositoryLocationName: $location, jobName: "mini"}, runConfigData: {}
  }) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}"""
STATUS = """query($run: ID!) { runOrError(runId: $run) { ... on Run { status stats { ... on RunStatsSnapshot {
  stepsSucceeded stepsFailed materializations } } } } }"""
MADE = """{ assetNodes { assetKey { path } assetMaterializations(limit: 1) { runId metadataEntries {
  label ... on TextMetadataEntry { text } ... on TableMetadataEntry { table { records } }
  ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
  ... on PathMetadataEntry { path } } } } }"""
CHECKS = """query($path: [String!]!) { assetNodeOrError(assetKey: {path: $path}) { ... on AssetNode {
  assetChecksOrError {
  ... on AssetChecks { checks { name executionForLatestMaterialization { runId status evaluation {
    success description } } } } } } } }"""


@dataclass(frozen=True)
class Served:
    """A running `cnt ui` over a copy of the finished project."""

    url: str
    project: Project

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            document = json.load(answer)
        assert "errors" not in document, document["errors"]
        data: dict[str, Any] = document["data"]
        return data


@contextmanager
def serving(project: Project) -> Iterator[Served]:
    """Start `cnt ui` on a free port in a group of its own; it and all it started are gone afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = project.folder / "ui.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cnt_pipeline", "ui", "--port", str(port)],
            cwd=project.folder, env=project.environment, stdout=out, stderr=out, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _await(url, process, log)
        yield Served(url, project)
    finally:
        process.send_signal(signal.SIGINT)  # `cnt ui` stops the server's group and waits for it
        try:
            code = process.wait(STOP_SECONDS)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert code == 0, log.read_text()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "something still listens after cnt ui has ended"


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"{url}/server_info", timeout=5).close()
            return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"no answer within {START_SECONDS} s: {log.read_text()}")


@pytest.fixture(scope="module")
def served(finished_store: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The UI over a copy of the finished project whose report was removed, so that one step is to build."""
    project = Project(Path(shutil.copytree(finished_store.folder, tmp_path_factory.mktemp("ui") / "project")))
    for page in (project.store / "reports").iterdir():
        shutil.rmtree(page)
    with serving(project) as one:
        yield one


@pytest.fixture(scope="module")
def run(served: Served) -> str:
    """A run of the whole study that was launched by GraphQL and succeeded."""
    (repository,) = served.ask(LOCATION)["repositoriesOrError"]["nodes"]
    launched = served.ask(LAUNCH, repository=repository["name"], location=repository["location"]["name"])["launchRun"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    name: str = launched["run"]["runId"]
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        found = served.ask(STATUS, run=name)["runOrError"]
        if found["status"] in ("SUCCESS", "FAILURE", "CANCELED"):
            break
        time.sleep(1)
    assert found["status"] == "SUCCESS", found
    assert found["stats"]["stepsFailed"] == 0
    assert found["stats"]["materializations"] == len(steps_of(load_study(served.project.study)))
    return name


def path_of(step: str) -> tuple[str, ...]:
    """Asset of a step: study, stage, the rest in one word."""
    stage, *rest = step.split("/")
    return ("mini", stage, "_".join(rest))


def test_the_graph_has_a_node_for_every_step_and_an_edge_for_every_input(served: Served) -> None:
    nodes = {tuple(node["assetKey"]["path"]): node for node in served.ask(NODES)["assetNodes"]}
    steps = steps_of(load_study(served.project.study))
    assert set(nodes) == {path_of(step.key) for step in steps}
    for step in steps:
        node = nodes[path_of(step.key)]
        wanted = {path_of(key) for key in (*(source.step for source in step.inputs.values()), *step.after)}
        assert {tuple(key["path"]) for key in node["dependencyKeys"]} == wanted
        assert node["groupName"] == step.stage
        assert "mini" in node["jobNames"] and node["kinds"]


def test_a_launched_run_tells_of_every_asset_what_it_took_and_what_it_built(served: Served, run: str) -> None:
    told = {}
    for node in served.ask(MADE)["assetNodes"]:
        (made,) = node["assetMaterializations"]
        assert made["runId"] == run
        told[tuple(node["assetKey"]["path"])] = {entry["label"]: entry for entry in made["metadataEntries"]}
    caches = {path: entries["cache"]["text"] for path, entries in told.items()}
    assert {path for path, cache in caches.items() if cache == "built"} == {("mini", "reports", "page")}
    assert set(caches.values()) == {"hit", "built"}
    page = Path(told["mini", "reports", "page"]["report"]["path"])
    assert page.is_file() and page.is_relative_to(served.project.store)
    ranking = told["mini", "neuron_rankings", "path"]
    assert json.loads(ranking["top_neurons"]["table"]["records"][0])["rank"] == 1
    assert ranking["where"]["mdStr"].startswith("![")
    assert json.loads(told["mini", "prompt_sets", "roles"]["rows"]["jsonString"])["test.function"] == 16


def test_the_checks_of_the_run_are_the_gates_of_the_verdict(served: Served, run: str) -> None:
    found = served.ask(CHECKS, path=["mini", "evaluations", "verdict"])["assetNodeOrError"]["assetChecksOrError"]
    told = {check["name"]: check["executionForLatestMaterialization"] for check in found["checks"]}
    verdict = json.loads(next(served.project.store.glob("evaluations/*/verdict.json")).read_text())
    judged = {check["name"]: check for check in verdict["checks"]}
    assert set(told) == set(judged) == set(GATES)
    for name, execution in told.items():
        assert execution["runId"] == run
        assert execution["evaluation"]["success"] == judged[name]["passed"]
        assert execution["evaluation"]["description"] == judged[name]["sentence"]


def test_the_pages_of_the_ui_show_graph_metadata_checks_and_run(served: Served, run: str, chrome: "Browser") -> None:
    page = chrome.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(120_000)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))

    def see(*texts: str) -> None:
        for text in texts:
            page.get_by_text(text, exact=True).filter(visible=True).first.wait_for()

    page.goto(f"{served.url}/locations/assets.definitions/jobs/mini")
    see("models", "prompt_sets")
    for _ in range(
        60
    ):  # the view may have been fitted to a graph still growing; a double click beside it fits it again
        if page.get_by_text("reports", exact=True).filter(visible=True).count():
            break
        page.mouse.dblclick(450, 920)
        page.wait_for_timeout(1000)
    see("activation_caches", "transplants", "reports")
    page.goto(f"{served.url}/assets/mini/evaluations/verdict?view=lineage")
    see("scores", "verdict", "checkpoint")
    page.goto(f"{served.url}/assets/mini/evaluations/verdict?view=checks")
    see("nothing_else_changed")
    page.goto(f"{served.url}/assets/mini/neuron_rankings/path?view=events")
    see("top_neurons")
    page.goto(f"{served.url}/runs/{run}")
    see("Success")
    page.close()
    assert faults == []
