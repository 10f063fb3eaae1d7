"""The commands that build nothing: what they answer, and how they refuse."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cnt_pipeline.commands.views import VIEWS
from cnt_pipeline.evaluations.suite_table import packaged_suites, read_suite
from cnt_pipeline.measures.suite_metrics import SUITE_METRICS
from cnt_pipeline.models.load import resolve_model
from cnt_pipeline.pipeline.documents import DOCUMENTS, PlanDocument, StatusDocument
from cnt_pipeline.prompt_sets.known import known_sources
from cnt_pipeline.reports.words import GRADES
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.table import EDITS
from cnt_pipeline.transplants.methods import METHODS, MethodRow
from tests.conftest import Project

Cnt = Callable[..., Result]


def test_a_new_study_passes_its_check_as_it_is(cnt: Cnt, fresh_project: Project) -> None:
    assert cnt(fresh_project, "init", "studies/My Study.yaml").exit_code == 0
    assert load_study(fresh_project.folder / "studies/My Study.yaml").study == "my-study"
    checked = cnt(fresh_project, "check", "studies/My Study.yaml")
    assert checked.exit_code == 0, checked.output
    for part in ("can exchange neurons", "vocabulary of", "function", "of disk", "of memory", "method cnt"):
        assert part in checked.stdout


def test_a_new_study_names_every_key_that_a_study_can_have(cnt: Cnt, fresh_project: Project) -> None:
    cnt(fresh_project, "init", "new.yaml")
    text = (fresh_project.folder / "new.yaml").read_text()
    schema = Study.model_json_schema(by_alias=True)
    blocks = [
        schema,
        *(
            schema["$defs"][name]
            for name in ("Function", "Method", "Controls", "Frontier", "Accept", "Run", "Generation")
        ),
    ]
    named = {key for block in blocks for key in block["properties"]} - {"metric", "effect", "probe_tokens"}
    assert [key for key in sorted(named) if f"{key}:" not in text] == []


def test_init_never_overwrites(cnt: Cnt, project: Project) -> None:
    before = project.study.read_text()
    refused = cnt(project, "init", "studies/mini.yaml")
    assert refused.exit_code == 2
    assert "exists already" in refused.stderr
    assert project.study.read_text() == before


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("status", "none.yaml"), "no such study file"),
        (("run", "studies"), "is a folder"),
        (("check", "none.yaml"), "cnt init none.yaml"),
        (("report", "studies/mini.yaml"), "cnt run studies/mini.yaml"),
        (("revert", "studies", "--out", "there"), "no inverse patch"),
        (("query", "select 1 from nothing"), "cannot be answered"),
        (("query", "drop table artifacts"), "only reads"),
        (("query", "select * from metrics"), "run a study first"),
        (("schema", "nothing"), "choose one of run, plan, status"),
        (("methods", "nlrs"), "choose one of cnt, cnt_gradient"),
        (("suites", "biass"), "choose one of bias, jailbreak"),
        (("compare", "studies/mini.yaml"), "compare: {methods: ["),
        (("gc", "none.yaml"), "no such study file"),
        (("ui", "none.yaml"), "no study file there"),
        (("status", "studies/mini.yaml", "--store", "nowhere://x"), "nowhere"),
    ],
)
def test_a_fault_is_one_sentence_and_exit_code_2(
    cnt: Cnt, fresh_project: Project, words: tuple[str, ...], part: str
) -> None:
    answer = cnt(fresh_project, *words)
    assert answer.exit_code == 2, answer.output
    assert answer.stdout == ""
    assert answer.stderr.startswith("cnt: ")
    assert part in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "words", [("run",), ("status", "--nothing"), ("nothing",), ("query", "--json", "--csv", "select 1")]
)
def test_wrong_usage_exits_with_2(cnt: Cnt, fresh_project: Project, words: tuple[str, ...]) -> None:
    assert cnt(fresh_project, *words).exit_code == 2


def test_a_finished_study_is_cached_throughout(cnt: Cnt, project: Project) -> None:
    status = StatusDocument.model_validate_json(cnt(project, "status", "studies/mini.yaml", "--json").stdout)
    assert (status.cached, status.to_build, status.broken) == (29, 0, 0)
    assert all(step.digest and step.fingerprint for step in status.steps)


def test_the_plan_of_an_edited_study_says_what_is_to_build_and_why(cnt: Cnt, project: Project) -> None:
    project.edit("random_seeds: 1", "random_seeds: 2")
    plan = PlanDocument.model_validate_json(cnt(project, "plan", "studies/mini.yaml", "--json").stdout)
    to_build = {step.key: step.why for step in plan.steps if step.state == "build"}
    assert "random_seeds" in to_build["transplants/controls"]
    assert "transplants/selection" not in to_build
    assert plan.to_build == len(to_build)
    assert plan.expected_seconds is not None


def test_a_damaged_artifact_is_told(cnt: Cnt, project: Project) -> None:
    ranking = next(project.store.glob("neuron_rankings/*/deltas.parquet"))
    ranking.write_bytes(ranking.read_bytes()[:-1])
    status = StatusDocument.model_validate_json(cnt(project, "status", "studies/mini.yaml", "--json").stdout)
    broken = {step.key: step.why for step in status.steps if step.state == "broken"}
    assert list(broken) == ["neuron_rankings/delta_norm"]
    assert "deltas.parquet" in broken["neuron_rankings/delta_norm"]


def test_every_view_answers_with_study_and_step(cnt: Cnt, finished_store: Project) -> None:
    absent = []
    for view in VIEWS:
        answer = cnt(finished_store, "query", f"select study, step from {view.name} limit 1", "--json")
        if answer.exit_code:
            assert f"holds nothing for the view {view.name} yet" in answer.output
            absent.append(view.name)
        else:
            assert [row["study"] for row in json.loads(answer.stdout)] == ["mini"], view.name
    assert absent == ["suite_metrics", "suite_samples"]  # the study names no suite


def test_views_join(cnt: Cnt, finished_store: Project) -> None:
    sql = (
        "select s.subject, avg(s.value) as refused, any_value(m.value) as reported from samples s "
        "join metrics m using (study, subject, metric) join prompts p using (study, id) "
        "where metric = 'refusal' and p.split = 'test' group by s.subject order by s.subject"
    )
    rows = json.loads(cnt(finished_store, "query", sql, "--json").stdout)
    assert len(rows) == 5
    assert all(row["refused"] == pytest.approx(row["reported"]) for row in rows)


@pytest.mark.parametrize(("table", "samples"), [("trials", "trial_samples"), ("frontier", "frontier_samples")])
def test_figures_on_selection_prompts_join_what_was_said(
    cnt: Cnt, finished_store: Project, table: str, samples: str
) -> None:
    sql = (
        "select any_value(f.function) as reported, avg(s.value) as refused, count(distinct p.id) as prompts "
        f"from {table} f join {samples} s using (study, asked) join prompts p using (study, id) "
        "where s.kind = 'function' and p.split = 'selection' group by f.asked"
    )
    rows = json.loads(cnt(finished_store, "query", sql, "--json").stdout)
    assert len(rows) > 2 and len({row["prompts"] for row in rows}) == 1
    assert all(row["refused"] == pytest.approx(row["reported"]) for row in rows)


def test_what_moved_joins_the_plan_and_its_ranking(cnt: Cnt, finished_store: Project) -> None:
    sql = (
        "select m.neuron, m.standard_error, r.standard_error as ranked, m.sha256_before <> m.sha256_after as changed "
        "from moved_neurons m join plan p using (study, layer, family, neuron) join rankings r "
        "using (study, layer, family, neuron) where r.rule = 'path' and r.score = m.score and r.rank = m.rank"
    )
    rows = json.loads(cnt(finished_store, "query", sql, "--json").stdout)
    planned = json.loads(cnt(finished_store, "query", "select neuron from plan", "--json").stdout)
    assert len(rows) >= len(planned) > 0
    assert all(row["changed"] and row["standard_error"] == row["ranked"] for row in rows)


def test_a_query_without_sql_lists_the_views(cnt: Cnt, finished_store: Project) -> None:
    listed = cnt(finished_store, "query").stdout
    assert all(view.name in listed for view in VIEWS)


def test_csv_has_a_header_and_a_row_each(cnt: Cnt, finished_store: Project) -> None:
    lines = cnt(
        finished_store, "query", "select step, digest from artifacts order by step", "--csv"
    ).stdout.splitlines()
    assert lines[0] == "step,digest"
    assert len(lines) == 30


def test_the_report_of_an_edited_study_is_refused_with_the_older_ones_path(cnt: Cnt, project: Project) -> None:
    page = cnt(project, "report", "studies/mini.yaml").stdout.strip()
    assert Path(page).name == "report.html"
    project.edit("random_seeds: 1", "random_seeds: 2")
    refused = cnt(project, "report", "studies/mini.yaml")
    assert refused.exit_code == 2
    assert page in refused.stderr


def test_revert_restores_the_target_bit_for_bit(cnt: Cnt, project: Project) -> None:
    checkpoint = next(project.store.glob("transplants/*/model"))
    done = cnt(project, "revert", str(checkpoint), "--out", "restored")
    assert done.exit_code == 0, done.output
    target = resolve_model(load_study(project.study).models.target)
    assert (checkpoint / "model.safetensors").read_bytes() != (target / "model.safetensors").read_bytes()
    restored = project.folder / "restored" / "model.safetensors"
    assert restored.read_bytes() == (target / "model.safetensors").read_bytes()


def test_gc_keeps_what_studies_reach_and_a_dry_run_removes_nothing(cnt: Cnt, project: Project) -> None:
    stale = project.store / "reports" / ("0" * 64)
    stale.mkdir()
    (stale / "report.html").write_text("old")
    assert "1 entry would be removed" in cnt(project, "gc", "--dry-run").stdout
    assert stale.exists()
    assert "1 entry removed" in cnt(project, "gc", "studies/mini.yaml").stdout
    assert not stale.exists()
    status = json.loads(cnt(project, "status", "studies/mini.yaml", "--json").stdout)
    assert status["cached"] == 29


@pytest.mark.parametrize("name", [*DOCUMENTS, "study"])
def test_every_document_has_a_schema(cnt: Cnt, fresh_project: Project, name: str) -> None:
    schema = json.loads(cnt(fresh_project, "schema", name).stdout)
    assert schema["type"] == "object"
    if name in DOCUMENTS:
        assert schema["properties"]["schema_version"]["const"] == 1


def test_all_methods_are_listed_with_their_grade_and_where_a_study_names_them(cnt: Cnt, fresh_project: Project) -> None:
    listed = cnt(fresh_project, "methods").stdout
    lines = {line.split()[0]: line.split() for line in listed.splitlines() if line and line[0] != " "}
    assert set(lines) >= {*METHODS, *EDITS}
    assert lines["cnt_gradient"][1] == "method.name"
    assert lines["nlsr"][1] == "compare.methods" and {"base", EDITS["nlsr"].grade} <= set(lines["nlsr"])


@pytest.mark.parametrize("name", [*METHODS, *EDITS])
def test_every_method_has_a_card(cnt: Cnt, fresh_project: Project, name: str) -> None:
    answer = cnt(fresh_project, "methods", name)
    assert answer.exit_code == 0, answer.output
    card = " ".join(answer.stdout.split())
    row: MethodRow | EditRow = METHODS[name] if name in METHODS else EDITS[name]
    assert card.startswith(name)
    for part in (row.words, row.source, f"{row.grade}: {GRADES[row.grade]}", "needs target, donor"):
        assert " ".join(part.split()) in card
    if isinstance(row, EditRow):
        assert " ".join(row.deviations.split()) in card
        assert all(f" {option} " in card for option in row.options.model_fields)
        assert all(need in card for need in (*row.needs, *row.probes))


def test_a_card_says_default_limits_and_meaning_of_an_option(cnt: Cnt, fresh_project: Project) -> None:
    card = cnt(fresh_project, "methods", "nlsr").stdout
    lines = {line.split()[0]: " ".join(line.split()) for line in card.splitlines() if line.strip()}
    assert lines["sparsity"].startswith("sparsity 0.8 number at least 0, below 1 share of a factor's entries")
    assert lines["gate"].startswith("gate paper paper, code, deterministic which")
    assert "whole number at least 1 or number above 0, below 1" in lines["safety_rank"]


def test_the_card_of_a_study_method_shows_what_it_sets_itself(cnt: Cnt, fresh_project: Project) -> None:
    mask = cnt(fresh_project, "methods", "cnt_mask").stdout
    assert "learn.steps" in mask
    selection = next(line.split() for line in mask.splitlines() if line.startswith("selection"))
    assert selection[1] == "mask"
    assert "learn.steps" not in cnt(fresh_project, "methods", "cnt").stdout


def test_all_suites_are_listed_with_their_sources_and_metrics(cnt: Cnt, fresh_project: Project) -> None:
    listed = cnt(fresh_project, "suites").stdout
    for part in (*packaged_suites(), "custom", *known_sources(), *SUITE_METRICS):
        assert part in listed


@pytest.mark.parametrize("name", packaged_suites())
def test_the_card_of_every_suite_says_what_it_reads_and_measures(cnt: Cnt, fresh_project: Project, name: str) -> None:
    suite, answer = packaged_suites()[name], cnt(fresh_project, "suites", name)
    assert answer.exit_code == 0 and f"{name}, version {suite.version}: {suite.meaning}" in answer.stdout
    said = "".join(answer.stdout.split())
    for part, each in suite.parts.items():
        assert part in said and all(metric in said for metric in each.metrics)
        for source in (str(each.source), *each.alternatives):
            assert source in said
            if source in known_sources():
                assert "".join(known_sources()[source].licence.split()) in said


def test_the_suite_file_to_begin_with_is_one(cnt: Cnt, fresh_project: Project) -> None:
    path = fresh_project.folder / "mine.yaml"
    path.write_text(cnt(fresh_project, "suites", "custom").stdout)
    assert list(read_suite(path).parts) == ["requests", "framed", "harness"]
