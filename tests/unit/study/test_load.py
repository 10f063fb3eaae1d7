"""A study file is read whole or refused with one sentence `file:key: reason`; what it leaves out has known defaults."""

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.measures.metrics import METRICS, metrics_of
from cnt_pipeline.study.fingerprint import canonical_json, fingerprint
from cnt_pipeline.study.load import load_study
from cnt_pipeline.study.schema import KINDS, SPLITS, Block, Lesson, LoraSft, Models, PromptSource, Study

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MINIMAL = """
study: sample
function: {name: refusal}
models: {target: {path: helpful}, donor: {path: aligned}}
prompts:
  function: {file: harmful.jsonl}
  lookalike: {file: benign.jsonl}
  utility: {file: general.jsonl}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str = MINIMAL) -> Study:
    return load_study(write(folder, text))


def changed(**keys: Any) -> str:
    """The minimal study with top-level keys set (a value of `...` removes one)."""
    document = yaml.safe_load(MINIMAL)
    for key, value in keys.items():
        document.pop(key, None) if value is ... else document.__setitem__(key, value)
    return yaml.safe_dump(document, sort_keys=False)


def prompts(**source: Any) -> str:
    document = yaml.safe_load(MINIMAL)
    document["prompts"]["function"] = source
    return yaml.safe_dump(document)


DEFAULTS: dict[str, Any] = {
    "purpose": "transplant",
    "donors": (),
    "match": "index",
    "function.direction": "add",
    "function.metric": None,
    "models.target.kind": None,
    "models.target.revision": None,
    "prompts.function.0.columns.text": "text",
    "prompts.function.0.columns.messages": None,
    "prompts.function.0.columns.prefix": "prefix",
    "prompts.function.0.columns.answers": "answers",
    "prompts.function.0.columns.choices": "choices",
    "prompts.function.0.columns.choices_separator": None,
    "prompts.function.0.subset": "train",
    "prompts.function.0.where": {},
    "prompts.function.0.rows": None,
    "prompts.function.0.take": None,
    "prompts.selection.function": None,
    "prompts.test.utility": None,
    "prompts.split.score": 0.4,
    "prompts.split.selection": 0.3,
    "prompts.split.test": 0.3,
    "prompts.split.train": 0.0,
    "prompts.train.function": None,
    "generation.max_new_tokens": 32,
    "generation.system": None,
    "method.name": "cnt",
    "method.effect": None,
    "method.nodes": 8,
    "method.lookalike_weight": (0.0, 0.5, 1.0),
    "method.damage_weight": 1.0,
    "method.selection": None,
    "method.count": None,
    "method.fraction": None,
    "method.eta": (1.0,),
    "method.aim": 0.98,
    "method.families": None,
    "probes": (),
    "probe_tokens": "response",
    "controls.random_seeds": 5,
    "frontier.effects": (),
    "frontier.budgets": (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3),
    "frontier.eta": (1.0,),
    "frontier.lookalike_weight": None,
    "frontier.random_seeds": 3,
    "frontier.resamples": 20,
    "evaluate": ("refusal", "over_refusal", "coherence", "utility"),
    "accept.recovery": 0.95,
    "accept.over_refusal": 0.03,
    "accept.utility_loss": 0.01,
    "accept.coherence_loss": 0.01,
    "accept.donor_margin": 0.3,
    "seed": 0,
    "dtype": "float32",
    "run.batch_size": 32,
    "run.threads": None,
    "run.device": "cpu",
    "run.checkpointing": False,
    "run.donor_memory": "keep",
}


@pytest.mark.parametrize("key", DEFAULTS)
def test_what_a_study_leaves_out_has_its_documented_default(tmp_path: Path, key: str) -> None:
    value: Any = load(tmp_path)
    for part in key.split("."):
        value = value[int(part)] if part.isdigit() else getattr(value, part)
    assert value == DEFAULTS[key]


def blocks(model: type[Block] = Study, seen: set[type[Block]] | None = None) -> set[type[Block]]:
    seen = set() if seen is None else seen
    if model not in seen:
        seen.add(model)
        for field in model.model_fields.values():
            for inner in named_in(field.annotation):
                blocks(inner, seen)
    return seen


def named_in(annotation: Any) -> list[type[Block]]:
    """Blocks in an annotation, through unions and lists."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return [annotation]
    return [block for inner in get_args(annotation) for block in named_in(inner)]


def test_every_key_of_every_block_says_what_it_means() -> None:
    found = blocks()
    assert {LoraSft, Lesson, PromptSource, Models} <= found
    silent = [f"{b.__name__}.{n}" for b in found for n, field in b.model_fields.items() if not field.description]
    assert silent == []


@pytest.mark.parametrize("block", sorted(blocks(), key=lambda b: b.__name__), ids=lambda b: b.__name__)
def test_every_block_is_frozen_and_refuses_unknown_keys(block: type[Block]) -> None:
    assert block.model_config["frozen"] is True
    # Further models have names of their own; what they hold is checked like the rest.
    assert block.model_config["extra"] == ("allow" if block is Models else "forbid")


def test_a_loaded_study_cannot_be_changed(tmp_path: Path) -> None:
    study = load(tmp_path)
    with pytest.raises(ValidationError):
        study.seed = 3
    with pytest.raises(ValidationError):
        study.prompts.split.score = 1.0


def test_relative_paths_are_relative_to_the_study_file_and_not_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "studies").mkdir()
    write(tmp_path / "studies", MINIMAL.replace("helpful", "../models/helpful").replace("aligned", "/far/aligned"))
    monkeypatch.chdir(tmp_path)
    study = load_study(Path("studies/study.yaml"))
    assert study.models.target.path is not None
    assert study.models.target.path.resolve() == tmp_path / "models/helpful"
    assert study.models.target.path.is_absolute()
    assert study.models.donor.path == Path("/far/aligned")
    assert study.prompts.function[0].file == str(tmp_path / "studies/harmful.jsonl")


def test_sets_of_their_own_for_selection_and_test_are_found_and_made_absolute(tmp_path: Path) -> None:
    document = yaml.safe_load(MINIMAL)
    document["prompts"]["selection"] = {"function": {"file": "s.jsonl"}}
    document["prompts"]["test"] = {"utility": {"file": "~/t.jsonl"}}
    found = load(tmp_path, yaml.safe_dump(document)).prompts
    own = {(s, k): source.file for s in SPLITS for k in KINDS for source in found.source(s, k)}
    assert own == {
        ("score", "function"): str(tmp_path / "harmful.jsonl"),
        ("score", "lookalike"): str(tmp_path / "benign.jsonl"),
        ("score", "utility"): str(tmp_path / "general.jsonl"),
        ("selection", "function"): str(tmp_path / "s.jsonl"),
        ("test", "utility"): str(Path("~/t.jsonl").expanduser()),
    }


def test_a_file_inside_a_package_stays_as_written(tmp_path: Path) -> None:
    study = load(tmp_path, prompts(package="cnt_pipeline", file="demo/prompts/harmful.score.jsonl"))
    assert study.prompts.function[0].file == "demo/prompts/harmful.score.jsonl"


def test_yaml_anchors_and_merged_blocks_may_be_used(tmp_path: Path) -> None:
    text = MINIMAL.replace("{file: harmful.jsonl}", "&set {file: harmful.jsonl, take: 3}")
    text = text.replace("{file: benign.jsonl}", "{<<: *set, file: other.jsonl}")
    study = load(tmp_path, text)
    (lookalike,) = study.prompts.lookalike
    assert (lookalike.file, lookalike.take) == (str(tmp_path / "other.jsonl"), 3)


def test_lambda_and_mu_may_be_written_by_letter_or_by_name(tmp_path: Path) -> None:
    letters = load(tmp_path, changed(method={"lambda": [2], "mu": 0.5})).method
    words = load(tmp_path, changed(method={"lookalike_weight": [2], "damage_weight": 0.5})).method
    assert letters == words
    assert letters.lookalike_weight == (2.0,)


def test_the_metric_of_a_function_follows_from_its_name_or_is_written(tmp_path: Path) -> None:
    assert load(tmp_path).function.measured_by == "refusal"
    assert load(tmp_path, changed(function={"name": "bias"})).function.measured_by == "pronoun_gap"
    mine = load(tmp_path, changed(function={"name": "mine", "metric": "pronoun_gap", "direction": "delete"})).function
    assert (mine.measured_by, mine.sign) == ("pronoun_gap", -1)


def test_a_bom_and_windows_line_ends_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.strip().replace("\n", "\r\n").encode())
    assert load_study(path).study == "sample"


FAULTS: dict[str, tuple[str, str, str]] = {
    "unknown key with a hint": (changed(metod={"name": "cnt"}), "metod", "did you mean 'method'?"),
    "unknown key without a hint": (changed(zzz=1), "zzz", "known keys here: study, purpose"),
    "unknown nested key": (prompts(file="a.jsonl", tak=3), "prompts.function.tak", "did you mean 'take'?"),
    "missing key": (changed(function=...), "function", "this key is required; add it"),
    "missing nested key": (changed(models={"target": {"path": "a"}}), "models.donor", "required"),
    "name with capitals": (changed(study="My Study"), "study", "lower-case"),
    "number for text": (changed(study=7), "study", "must be text"),
    "date for text": (MINIMAL.replace("sample", "2026-01-01"), "study", "must be text; put it in quotes"),
    "text for a number": (changed(seed="zero"), "seed", "must be a whole number"),
    "yes for a number": (changed(seed=True), "seed", "must be a whole number (it holds True)"),
    "negative seed": (changed(seed=-1), "seed", "greater than or equal to 0"),
    "share over one": (changed(accept={"recovery": 95}), "accept.recovery", "less than or equal to 1"),
    "not a number": (changed(accept={"recovery": float("nan")}), "accept.recovery", "number"),
    "infinite weight": (changed(method={"lambda": [float("inf")]}), "method.lambda.0", "finite"),
    "list where a block belongs": (changed(models=["a", "b"]), "models", "must be a block of keys"),
    "value where a list belongs": (changed(method={"eta": 2}), "method.eta", "must be a list"),
    "empty list of amplitudes": (changed(method={"eta": []}), "method.eta", "at least one value"),
    "budget above everything": (changed(frontier={"budgets": [0.1, 1.5]}), "frontier.budgets.1", "than or equal to 1"),
    "budget twice": (changed(frontier={"budgets": [0.1, 0.1]}), "frontier.budgets", "each value once"),
    "no budget": (changed(frontier={"budgets": []}), "frontier.budgets", "at least one value"),
    "effect that is none": (changed(frontier={"effects": ["size"]}), "frontier.effects.0", "'path', 'gradient' or"),
    "look-alike weight that is not scored": (
        changed(frontier={"lambda": [0.25]}), "study", "frontier.lambda names 0.25, but neurons are scored at 0,",
    ),
    "repeated amplitude": (changed(method={"eta": [1, 1.0]}), "method.eta", "each once"),
    "unknown choice": (changed(dtype="float64"), "dtype", "'float32', 'bfloat16' or 'float16'"),
    "unknown probe": (changed(probes=["logits"]), "probes.0", "'activation' or 'hidden_state'"),
    "refusal deleted outside a stress test": (
        changed(function={"name": "refusal", "direction": "delete"}), "study", "write `purpose: stress_test`",
    ),
    "refusal deleted under another name": (
        changed(function={"name": "mine", "metric": "refusal", "direction": "delete"}), "study", "stress test alone",
    ),
    "unknown purpose": (changed(purpose="attack"), "purpose", "'transplant' or 'stress_test'"),
    "unknown donor": (changed(donors=["nobody"]), "study", "'nobody', which is no donor"),
    "target as its own donor": (changed(donors=["target"]), "study", "choose among donor"),
    "donor listed twice": (changed(donors=["donor", "donor"]), "study", "list each once"),
    "unknown function": (changed(function={"name": "truth"}), "function", "add `metric: refusal`"),
    "top_k without count": (changed(method={"selection": "top_k"}), "method", "needs `count:`"),
    "top_fraction without share": (changed(method={"selection": "top_fraction"}), "method", "needs `fraction:`"),
    "shares that do not add up": (
        MINIMAL + "  split: {score: 0.9}\n", "prompts.split", "must add up to 1, not 1.5",
    ),
    "model without source": (changed(models={"target": {}, "donor": {"path": "a"}}), "models.target", "exactly one"),
    "model with two sources": (
        changed(models={"target": {"path": "a", "hub": "o/n"}, "donor": {"path": "a"}}), "models.target", "exactly one",
    ),
    "hub model without revision": (
        changed(models={"target": {"hub": "org/name"}, "donor": {"path": "a"}}), "models.target", "40-digit commit",
    ),
    "hub model on a branch": (
        changed(models={"target": {"hub": "org/name", "revision": "main"}, "donor": {"path": "a"}}),
        "models.target", "40-digit commit",
    ),
    "hub dataset with a short commit": (prompts(hub="org/set", revision=COMMIT[:12]), "prompts.function", "40-digit"),
    "prompts from two sources": (prompts(hub="o/s", revision=COMMIT, file="a"), "prompts.function", "exactly one"),
    "prompts without source": (prompts(take=3), "prompts.function", "exactly one"),
    "package without file": (prompts(package="cnt_pipeline"), "prompts.function", "exactly one source"),
    "model package without folder": (
        changed(models={"target": {"package": "x"}, "donor": {"path": "a"}}), "models.target", "needs `file:`",
    ),
    "empty file name": (prompts(file=""), "prompts.function.file", "at least 1 character"),
    "list as filter": (prompts(file="a", where={"k": [1]}), "prompts.function.where.k", "must be text"),
    "take nothing": (prompts(file="a", take=0), "prompts.function.take", "greater than or equal to 1"),
    "block without content": (MINIMAL.replace("{file: harmful.jsonl}", ""), "prompts.function", "block of keys"),
    "too many tokens": (changed(generation={"max_new_tokens": 100000}), "generation.max_new_tokens", "1024"),
    "no batch": (changed(run={"batch_size": 0}), "run.batch_size", "greater than or equal to 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_study_is_refused_by_file_key_and_reason_in_one_sentence(tmp_path: Path, fault: str) -> None:
    text, key, reason = FAULTS[fault]
    with pytest.raises(StudyError) as caught:
        load(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'study.yaml'}:{key}: ")
    assert reason in message
    assert "\n" not in message
    assert "pydantic" not in message and "Input should be a valid" not in message


NOT_YAML: dict[str, tuple[str, str]] = {
    "key written twice": (MINIMAL + "seed: 1\nseed: 2\n", "line 10 is not valid YAML (the key 'seed' is"),
    "nested key written twice": (MINIMAL + "run: {threads: 1, threads: 2}\n", "'threads' is written twice"),
    "unclosed bracket": (MINIMAL + "probes: [activation\n", "is not valid YAML"),
    "tab as indent": ("study:\n\tname: x\n", "line 2 is not valid YAML"),
    "two documents": (MINIMAL + "---\nstudy: other\n", "another document"),
    "an object of Python": ("study: !!python/object:os.system {}\n", "not valid YAML"),
    "an impossible date": (MINIMAL.replace("sample", "2026-13-45"), "put it in quotes"),
    "endless nesting": ("a: " + "[" * 5000, "cannot be read"),
    "a null character": (MINIMAL + "\0", "not valid YAML"),
    "a list": ("- study\n", "a study is a mapping of keys"),
    "nothing": ("", "a study is a mapping of keys"),
}


@pytest.mark.parametrize("fault", NOT_YAML)
def test_a_file_that_is_no_study_is_refused_in_one_sentence(tmp_path: Path, fault: str) -> None:
    text, reason = NOT_YAML[fault]
    with pytest.raises(StudyError) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'study.yaml'}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_path_that_cannot_be_read_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cnt init"):
        load_study(tmp_path / "absent.yaml")
    with pytest.raises(StudyError, match="this is a folder"):
        load_study(tmp_path)
    (tmp_path / "utf16.yaml").write_bytes(MINIMAL.encode("utf-16"))
    with pytest.raises(StudyError, match="UTF-8"):
        load_study(tmp_path / "utf16.yaml")
    with pytest.raises(StudyError, match="unknown user's `~`"):
        load(tmp_path, MINIMAL.replace("path: helpful", "path: ~nobody-of-that-name/helpful"))


def test_a_metric_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    study = load(tmp_path, changed(evaluate=["bleu"]))
    with pytest.raises(StudyError, match="study:evaluate: there is no metric 'bleu'; choose among refusal"):
        metrics_of(study.function, study.evaluate)
    assert set(metrics_of(study.function, tuple(METRICS))) == set(METRICS)


def test_equal_slices_have_equal_fingerprints_whatever_their_order_and_others_differ() -> None:
    one = fingerprint("models", 1, {"a": 1, "b": [1.0, "é"]}, {"x": "1", "y": "2"})
    assert one == fingerprint("models", 1, {"b": [1.0, "é"], "a": 1}, {"y": "2", "x": "1"})
    others = {
        fingerprint("completions", 1, {"a": 1, "b": [1.0, "é"]}, {"x": "1", "y": "2"}),
        fingerprint("models", 2, {"a": 1, "b": [1.0, "é"]}, {"x": "1", "y": "2"}),
        fingerprint("models", 1, {"a": 2, "b": [1.0, "é"]}, {"x": "1", "y": "2"}),
        fingerprint("models", 1, {"a": 1, "b": [1.0, "é"]}, {"x": "1", "y": "3"}),
    }
    assert len(others | {one}) == 5
    assert len(one) == 64
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_only_a_test_source_may_stand_beside_the_gates(tmp_path: Path) -> None:
    beside = {"file": "far.jsonl", "gated": False}
    document = yaml.safe_load(MINIMAL)
    document["prompts"]["test"] = {"function": ["shared", beside]}
    study = load(tmp_path, yaml.safe_dump(document))
    assert [Path(str(source.file)).name for source in study.prompts.ungated()] == ["far.jsonl"]
    document["prompts"]["test"] = {"function": beside}
    with pytest.raises(StudyError, match=r"test\.function needs a source that the gates read"):
        load(tmp_path, yaml.safe_dump(document))
    with pytest.raises(StudyError, match="`gated: false` is for test sources"):
        load(tmp_path, prompts(**beside))
