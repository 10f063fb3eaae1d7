"""The `cnt` command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cnt_pipeline.errors import CntError

INTERRUPTED = 130


class KeyKind(StrEnum):
    """Kinds of keys that `cnt keygen` makes."""

    ed25519 = "ed25519"
    p256 = "p256"


class Guarded(TyperGroup):
    """Shows a fault that the user can fix as its one sentence, with its exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except CntError as error:
            _say(f"cnt: {error}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _say("cnt: interrupted; finished steps are kept in the store, and the next `cnt run` goes on from there")
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    cls=Guarded,
    help="Find the neurons that carry a safety function in a donor model, transplant them, and prove what changed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 a quality gate or a proof failed, 2 the input is at fault, 130 interrupted.",
)

StudyFile = Annotated[Path, typer.Argument(metavar="STUDY", help="Study file (YAML).")]
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="Folder or URL of the artifact store. Default: $CNT_STORE, else .cnt in the project.",
    ),
]


class Question(StrEnum):
    """What people said of an answer."""

    refused = "refused"
    harmful = "harmful"


KeyOption = Annotated[
    Path | None, typer.Option("--key", metavar="KEYFILE", help="Ed25519 key that signs the statement (cnt keygen).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to standard output.")]


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write, or the folder to write study.yaml into.")] = Path(
        "study.yaml"
    ),
) -> None:
    """Write a commented study to edit; as it is, it runs on the packaged pair of models."""
    from cnt_pipeline.commands.init import write_study

    write_study(path)


@app.command()
def check(study: StudyFile) -> None:
    """Check everything that can be known before computing: models, prompts, method, needs."""
    from cnt_pipeline.commands.check import check_study

    check_study(study)


@app.command()
def plan(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say what a run would build, and why."""
    from cnt_pipeline.commands.plan import show_plan

    show_plan(study, store, as_json)


@app.command()
def run(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Run a study: build what is not stored yet, then say what was found."""
    from cnt_pipeline.commands.run import run_study

    raise typer.Exit(run_study(study, store, as_json))


@app.command()
def status(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Say of every step whether it is cached, to build or broken, and why."""
    from cnt_pipeline.commands.plan import show_status

    show_status(study, store, as_json)


@app.command()
def query(
    sql: Annotated[
        str | None, typer.Argument(metavar="SQL", help="One SELECT; without it the views are listed.")
    ] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="All rows as a JSON list.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="All rows as CSV.")] = False,
) -> None:
    """Ask the store with SQL: a view per kind of artifact, over all studies."""
    from cnt_pipeline.commands.query import run_query

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    run_query(sql, store, "json" if as_json else "csv" if as_csv else "table")


@app.command()
def report(
    study: StudyFile,
    store: StoreOption = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
) -> None:
    """Print the path of a study's HTML report."""
    from cnt_pipeline.commands.report import show_report

    show_report(study, store, open_it)


@app.command("apply")
def apply_(
    patch: Annotated[Path, typer.Argument(metavar="PATCH", help="Forward patch of a transplant (patch.parquet).")],
    target: Annotated[Path, typer.Option("--target", metavar="FOLDER", help="The model that it was made for.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
) -> None:
    """Make a transplant's checkpoint from its patch and the target, bit for bit."""
    from cnt_pipeline.commands.patch import apply_patch

    apply_patch(patch, target, out)


@app.command()
def revert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Folder of a transplant.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    patch: Annotated[
        Path | None, typer.Option(help="Inverse patch, where it does not lie with the checkpoint.")
    ] = None,
) -> None:
    """Restore the target of a transplant, bit for bit."""
    from cnt_pipeline.commands.patch import revert_checkpoint

    revert_checkpoint(checkpoint, out, patch)


@app.command()
def export(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    store: StoreOption = None,
    despite_failed_gates: Annotated[
        bool, typer.Option("--despite-failed-gates", help="Export although a quality gate failed.")
    ] = False,
    key: KeyOption = None,
) -> None:
    """Copy a finished transplant out of the store: model card, proof, patches, list of neurons and lineage."""
    from cnt_pipeline.commands.export import export_transplant

    export_transplant(study, out, store, despite_failed_gates, key)


@app.command()
def bundle(
    study: StudyFile,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; it must not hold anything.")],
    store: StoreOption = None,
    key: KeyOption = None,
    oms_key: Annotated[
        Path | None,
        typer.Option("--oms-key", metavar="KEYFILE", help="P-256 key that signs the folder as model-signing does."),
    ] = None,
    no_weights: Annotated[
        bool, typer.Option("--no-weights", help="Leave the checkpoint's weights out; their digests stay.")
    ] = False,
    openlineage: Annotated[bool, typer.Option("--openlineage", help="Add OpenLineage events.")] = False,
    despite_failed_gates: Annotated[
        bool, typer.Option("--despite-failed-gates", help="Bundle although a quality gate failed.")
    ] = False,
) -> None:
    """Put all evidence of a finished study into one folder that a reviewer can check alone."""
    from cnt_pipeline.commands.lineage import bundle_study

    bundle_study(
        study,
        out,
        store,
        key=key,
        oms_key=oms_key,
        weights=not no_weights,
        lineage=openlineage,
        despite_failed_gates=despite_failed_gates,
    )


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File for the private key; the public key gets its name and .pub.")],
    kind: Annotated[
        KeyKind, typer.Option(help="ed25519 signs statements, p256 whole folders as model-signing does.")
    ] = KeyKind.ed25519,
) -> None:
    """Make a key that signs bundles."""
    from cnt_pipeline.commands.lineage import make_keys

    make_keys(path, kind.value)


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Bundle, or checkpoint that `cnt export` wrote.")],
    public_key: Annotated[
        Path | None, typer.Option("--public-key", metavar="FILE", help="Key that must have signed the statement.")
    ] = None,
    oms_key: Annotated[
        Path | None, typer.Option("--oms-key", metavar="FILE", help="Key that must have signed the folder.")
    ] = None,
    target: Annotated[Path | None, typer.Option(metavar="DIR", help="The target, to compare byte for byte.")] = None,
    donor: Annotated[Path | None, typer.Option(metavar="DIR", help="The donor, to compare byte for byte.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The checkpoint that you hold, instead of the bundle's own.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Prove a bundle or an exported checkpoint, or name the first link that is broken (exit code 1)."""
    from cnt_pipeline.commands.lineage import verify_path
    from cnt_pipeline.lineage.keys import read_public_key
    from cnt_pipeline.lineage.verify import Given

    given = Given(read_public_key(public_key) if public_key else None, oms_key, target, donor, checkpoint)
    raise typer.Exit(verify_path(path, given, as_json))


@app.command()
def replay(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder that `cnt bundle` wrote.")],
    store: Annotated[
        str | None,
        typer.Option("--store", metavar="URL", help="Store to build in. Default: BUNDLE.replay, beside the bundle."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a bundle's study again and say of every step whether its result is the same (exit code 1: it is not)."""
    from cnt_pipeline.commands.replay import replay_bundle

    raise typer.Exit(replay_bundle(bundle, store, as_json))


@app.command()
def donors(
    study: StudyFile,
    store: StoreOption = None,
    as_json: JsonOption = False,
    budget: Annotated[
        float, typer.Option(min=0.00001, max=1, help="Share of all parameters that each donor may give.")
    ] = 0.0024,
) -> None:
    """Compare candidate donors: how far the best neurons of each bring the target at one budget."""
    from cnt_pipeline.commands.donors import compare_donors

    raise typer.Exit(compare_donors(study, store, as_json, budget))


@app.command()
def compare(study: StudyFile, store: StoreOption = None, as_json: JsonOption = False) -> None:
    """Compare the methods that a study names on the same test prompts: the leaderboard."""
    from cnt_pipeline.commands.compare import compare_methods

    raise typer.Exit(compare_methods(study, store, as_json))


@app.command(name="judge-check")
def judge_check(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="Study with `judges:`. Default: the phrase families.")
    ] = None,
    judge: Annotated[str | None, typer.Option("--judge", metavar="NAME", help="This judge of the study alone.")] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", metavar="FILE.csv", help="Labelled answers. Default: those in the package pyrit."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="prompt=...,answer=...,label=...", help="How the file's columns are called."),
    ] = None,
    question: Annotated[Question, typer.Option(help="What the labels say of an answer.")] = Question.refused,
    as_json: JsonOption = False,
) -> None:
    """Measure how far a judge agrees with people: accuracy, precision, recall, Cohen's kappa, confusions."""
    from cnt_pipeline.commands.judge_check import check_judges

    raise typer.Exit(check_judges(study, judge, labels, columns, question.value, as_json))


@app.command()
def gc(
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="[STUDY]...", help="Keep what these studies plan too.")
    ] = None,
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, remove nothing.")] = False,
) -> None:
    """Remove from the store what no study reaches."""
    from cnt_pipeline.commands.gc import collect

    collect(studies or [], store, dry_run)


@app.command()
def ui(
    studies: Annotated[
        list[Path] | None, typer.Argument(metavar="[STUDY]...", help="Default: the project's studies/.")
    ] = None,
    store: StoreOption = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=1, max=65535, help="Port to listen on.")] = 3000,
) -> None:
    """Browse and run the studies in Dagster's web interface."""
    from cnt_pipeline.commands.ui import serve

    raise typer.Exit(serve(studies or [], store, host, port))


@app.command()
def schema(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="run, plan, status, donors, leaderboard, judge-check, verify, replay or study."
        ),
    ],
) -> None:
    """Print the JSON Schema of a document."""
    from cnt_pipeline.commands.reference import print_schema

    print_schema(name)


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One method: what it does, reads and may be told.")
    ] = None,
) -> None:
    """List the methods that a study can name, or describe one."""
    from cnt_pipeline.commands.reference import print_method, print_methods

    if name is None:
        print_methods()
    else:
        print_method(name)


@app.command()
def suites(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One suite: its sources, columns, metrics, licences.")
    ] = None,
) -> None:
    """List the evaluation suites that a study can name, or describe one."""
    from cnt_pipeline.commands.suites import print_suite, print_suites

    if name is None:
        print_suites()
    else:
        print_suite(name)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def main() -> None:
    """Entry point of `cnt`."""
    app()
