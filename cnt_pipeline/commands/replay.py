"""`cnt replay`: run a bundle's study again and compare every step's result with the bundle's."""

from pathlib import Path

from cnt_pipeline.commands.console import err, out, print_document, table
from cnt_pipeline.commands.progress import RunDisplay
from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.documents import EnvironmentDifference, ReplayDocument
from cnt_pipeline.lineage.environment import differences, gravest
from cnt_pipeline.lineage.record import open_bundle
from cnt_pipeline.lineage.replay import Replay
from cnt_pipeline.lineage.verify import Given, verify
from cnt_pipeline.pipeline.step import VERSIONS
from cnt_pipeline.store import Store
from cnt_pipeline.store.publish import environment

DIFFERS = 1


def replay_bundle(path: Path, store: str | None, as_json: bool) -> int:
    """Replay the bundle in `path` into `store`; 0, or 1 where a step's result is another.

    Raises:
        InputError: the bundle is broken or lacks its prompt sets, or a model is not the one of the bundle.
        CntError: as the steps.
    """
    proof = verify(path, Given())
    if proof.broken:
        raise InputError(f"the bundle is broken and is not replayed: {proof.broken}")
    bundle = open_bundle(path)
    manifests = bundle.manifests()
    found = differences(manifests.values(), environment())
    opened = Store(store or str(path.absolute().with_name(f"{path.absolute().name}.replay")))
    replay = Replay(bundle, manifests, opened)
    if not as_json:
        _print_environment(found)
    for stage, version in sorted({(each.stage, each.stage_version) for each in manifests.values()}):
        if version != VERSIONS.get(stage):
            err().print(f"{stage} was version {version} and is {VERSIONS.get(stage)} here: results may differ")
    with RunDisplay(err(), replay.steps) as display:
        steps = list(replay.take(display))
    document = ReplayDocument(
        study=bundle.index.study,
        store=opened.url,
        environment=gravest(found),
        differences=found,
        steps=steps,
        agrees=all(step.agrees for step in steps),
    )
    if as_json:
        print_document(document)
    else:
        _print(document, bundle.index.purpose == "stress_test")
    return 0 if document.agrees else DIFFERS


def _print_environment(found: list[EnvironmentDifference]) -> None:
    console = out()
    if not found:
        console.print("the environment is the same: packages, python and processor\n")
        return
    rows = [(each.name, each.then or "not recorded", each.now or "absent", each.grade) for each in found]
    console.print(table(("environment", "then", "now", "differs in"), rows))
    console.print()


def _print(document: ReplayDocument, stress_test: bool) -> None:
    console = out()
    rows = [
        (step.key, step.state, "same" if step.agrees else f"differs: {', '.join(step.differing)}", step.digest[:12])
        for step in document.steps
    ]
    console.print(table(("step", "state", "result", "digest"), rows))
    steps = document.steps
    agreeing, again = sum(step.agrees for step in steps), sum(step.state == "built" for step in steps)
    console.print(
        f"\n{agreeing} of {len(steps)} results are the bundle's; {again} were computed anew in {document.store}",
        markup=False,
        soft_wrap=True,
    )
    if stress_test:
        console.print("stress test: the checkpoint is not for use, and is not exported")
