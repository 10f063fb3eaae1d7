"""`cnt plan` and `cnt status`: what a run would do, and what the store holds. Neither builds anything."""

from pathlib import Path

from cnt_pipeline.commands.console import out, print_document, table
from cnt_pipeline.pipeline.documents import PlanDocument, PlannedStep, StatusDocument, StepStatus
from cnt_pipeline.pipeline.plan import Planned, plan
from cnt_pipeline.pipeline.project import store_url
from cnt_pipeline.quantities import seconds_text
from cnt_pipeline.store import Store
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study


def show_plan(path: Path, store: str | None, as_json: bool) -> None:
    """Print what `cnt run` would do with the study in `path`."""
    study, opened = load_study(path), Store(store_url(store))
    document = plan_document(study, opened, plan(study, opened))
    if as_json:
        print_document(document)
        return
    print_plan(document)


def show_status(path: Path, store: str | None, as_json: bool) -> None:
    """Print the state of every step of the study in `path`."""
    study, opened = load_study(path), Store(store_url(store))
    planned = plan(study, opened)
    document = StatusDocument(
        study=study.study,
        store=opened.url,
        cached=sum(p.state == "cached" for p in planned),
        to_build=sum(p.state == "to build" for p in planned),
        broken=sum(p.state == "broken" for p in planned),
        steps=[_status(p) for p in planned],
    )
    if as_json:
        print_document(document)
        return
    console = out()
    console.print(table(("step", "state", "why"), ((s.key, s.state, s.why) for s in document.steps)))
    console.print(
        f"\n{document.study}: {document.cached} cached, {document.to_build} to build, {document.broken} broken, "
        f"in {document.store}",
        markup=False,
        soft_wrap=True,
    )


def plan_document(study: Study, store: Store, planned: list[Planned]) -> PlanDocument:
    """The plan as a document, with the times that the steps took when they were last built."""
    heads = {head.key: head.manifest.seconds for head in store.heads(study.study)}
    steps = [
        PlannedStep(
            key=p.step.key,
            stage=p.step.stage,
            state="hit" if p.state == "cached" else "build",
            why=p.why if p.state != "broken" else f"damaged: {p.why}",
            fingerprint=p.request.fingerprint if p.request else None,
            inputs=sorted({source.step for source in p.step.inputs.values()}),
            last_seconds=heads.get(p.step.key),
        )
        for p in planned
    ]
    times = [step.last_seconds for step in steps if step.state == "build"]
    return PlanDocument(
        study=study.study,
        store=store.url,
        method=study.method.name,
        hits=sum(step.state == "hit" for step in steps),
        to_build=len(times),
        expected_seconds=None if None in times else round(sum(t for t in times if t is not None), 3),
        steps=steps,
    )


def print_plan(document: PlanDocument) -> None:
    """The plan as a table."""
    console = out()
    rows = (
        (step.key, step.state, "" if step.last_seconds is None else seconds_text(step.last_seconds), step.why)
        for step in document.steps
    )
    console.print(table(("step", "state", "last took", "why"), rows, right=("last took",)))
    expected = ""
    if document.to_build and document.expected_seconds is not None:
        expected = f", about {seconds_text(document.expected_seconds)} when they take as long as last time"
    console.print(
        f"\n{document.study}: {document.hits} up to date, {document.to_build} to build{expected}, in {document.store}",
        markup=False,
        soft_wrap=True,
    )


def _status(planned: Planned) -> StepStatus:
    return StepStatus(
        key=planned.step.key,
        stage=planned.step.stage,
        state=planned.state,
        why=planned.why,
        fingerprint=planned.request.fingerprint if planned.request else None,
        digest=planned.artifact.digest if planned.artifact else None,
    )
