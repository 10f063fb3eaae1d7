"""The table of faults: how each is made, which commands must show it, with what exit code and in which words."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hostile.conftest import Bench, edit_json, read_tensors, write_tensors

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHECK, PLAN, RUN = (
    ("check", "{study}"),
    ("plan", "{study}", "--store", "{store}"),
    ("run", "{study}", "--store", "{store}"),
)
BEFORE = (CHECK, PLAN, RUN)
"""Known before any step is taken."""
HEADERS = (CHECK, RUN)
"""Known from headers and prompt files; a run meets it in its first steps."""
WORK = (RUN,)
"""Known only once the models compute."""


@dataclass(frozen=True)
class Fault:
    """`break_it` spoils the bench; each of `commands` then exits with `code` and says all of `words`."""

    name: str
    break_it: Callable[[Bench], Any]
    words: tuple[str, ...]
    commands: tuple[tuple[str, ...], ...] = BEFORE
    code: int = 2
    step: str | None = None
    """The step of a run that meets it; None where no step may have been taken at all."""
    offline: bool = False
    """Asked in a process of its own that may not use the network, as the hub's client reads that at its start."""


def study_text(change: Callable[[str], str]) -> Callable[[Bench], None]:
    def break_it(bench: Bench) -> None:
        bench.study_file.write_text(change(bench.study_file.read_text()))

    return break_it


def key(name: str, value: Any) -> Callable[[Bench], None]:
    return lambda bench: bench.put(name, value)


def model_file(which: str, name: str, change: Callable[[Path], Any]) -> Callable[[Bench], None]:
    return lambda bench: change(bench.own(which) / name)


def config(which: str, **keys: Any) -> Callable[[Bench], None]:
    return model_file(which, "config.json", lambda path: edit_json(path, **keys))


def prompt_file(change: Callable[[Path], Any], name: str = "function.score.jsonl") -> Callable[[Bench], None]:
    return lambda bench: change(bench.root / name)


def other_prompt_file(name: str, content: bytes, **columns: str) -> Callable[[Bench], None]:
    """The function prompts for scoring come from a file of another kind."""

    def break_it(bench: Bench) -> None:
        (bench.root / name).write_bytes(content)
        bench.put("prompts.function", {"file": name, **({"columns": columns} if columns else {})})

    return break_it


def study_folder(bench: Bench) -> None:
    bench.study_file.unlink()
    bench.study_file.mkdir()


def cut(path: Path, left: int) -> None:
    os.truncate(path, path.stat().st_size - left)


def spoil_start(path: Path, start: bytes) -> None:
    with path.open("r+b") as stream:
        stream.write(start)


def pickle_only(bench: Bench) -> None:
    folder = bench.own("donor")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def grown_vocabulary(bench: Bench) -> None:
    path = bench.own("donor") / "model.safetensors"
    tensors = read_tensors(path)
    dtype, shape, content = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = dtype, [shape[0] + 1, shape[1]], content + content[: 2 * shape[1]]
    write_tensors(path, tensors)
    edit_json(path.with_name("config.json"), vocab_size=shape[0] + 1)


def narrower_ffn(bench: Bench) -> None:
    path = bench.own("donor") / "model.safetensors"
    tensors = read_tensors(path)
    for name, (dtype, (rows, columns), content) in {k: v for k, v in tensors.items() if ".mlp." in k}.items():
        if "down_proj" in name:
            kept = b"".join(content[2 * columns * row : 2 * columns * (row + 1) - 4] for row in range(rows))
            tensors[name] = dtype, [rows, columns - 2], kept
        else:
            tensors[name] = dtype, [rows - 2, columns], content[: -4 * columns]
    write_tensors(path, tensors)
    edit_json(path.with_name("config.json"), intermediate_size=382)


def absent_tensor(bench: Bench) -> None:
    path = bench.own("donor") / "model.safetensors"
    tensors = read_tensors(path)
    del tensors["model.layers.2.mlp.up_proj.weight"]
    write_tensors(path, tensors)


def missing_shard(bench: Bench) -> None:
    folder = bench.own("target")
    tensors = read_tensors(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for name, half in zip(names, halves, strict=True):
        write_tensors(folder / name, {tensor: tensors[tensor] for tensor in half})
    places = {tensor: name for name, half in zip(names, halves, strict=True) for tensor in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / names[1]).unlink()


def not_a_number(which: str) -> Callable[[Bench], None]:
    def break_it(bench: Bench) -> None:
        path = bench.own(which) / "model.safetensors"
        tensors = read_tensors(path)
        dtype, shape, content = tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.1.mlp.up_proj.weight"] = dtype, shape, content[:512] + b"\xc0\x7f" + content[514:]
        write_tensors(path, tensors)

    return break_it


def remote_code(bench: Bench) -> None:
    edit_json(bench.own("donor") / "config.json", auto_map={"AutoModel": "code.Model"}, model_type="own_llama")


def other_tokens(path: Path) -> None:
    """Two words change places: same size, other meaning."""
    document = json.loads(path.read_text())
    words = document["model"]["vocab"]
    first, second = [word for word, number in words.items() if number in (600, 601)]
    words[first], words[second] = words[second], words[first]
    path.write_text(json.dumps(document))


def no_tokenizer(bench: Bench) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bench.own("donor") / name).unlink()


def swapped_models(bench: Bench) -> None:
    def swap(document: dict[str, Any]) -> None:
        models = document["models"]
        models["target"], models["donor"] = models["donor"], models["target"]

    bench.edit(swap)


def copied_target(bench: Bench) -> None:
    shutil.copytree(bench.own("target"), bench.root / "copy")
    bench.put("models.donor", {"path": "copy"})


def two_names_of_one_folder(bench: Bench) -> None:
    bench.own("target")
    (bench.root / "alias").symlink_to(bench.root / "target")
    bench.put("models.donor", {"path": "alias"})


def shared_prompt(bench: Bench) -> None:
    rows = bench.rows("function.test")
    rows[0]["text"] = "  " + bench.rows("function.score")[4]["text"].upper()
    bench.write_rows("function.test", rows)


def one_row_for_three_roles(bench: Bench) -> None:
    bench.write_rows("function.score", bench.rows("function.score")[:1])
    bench.put("prompts.selection.function", ...)
    bench.put("prompts.test.function", ...)


def changed_row(name: str, **columns: Any) -> Callable[[Bench], None]:
    def break_it(bench: Bench) -> None:
        rows = bench.rows(name)
        rows[3].update(columns)
        bench.write_rows(name, [{k: v for k, v in row.items() if v is not ...} for row in rows])

    return break_it


def gap_without_choices(bench: Bench) -> None:
    bench.put("function", {"name": "bias", "direction": "delete"})
    for split in ("score", "selection", "test"):
        bench.put(f"prompts.{split}.lookalike".replace("score.", ""), {"packaged": f"occupation_lookalike.{split}"})


def store_is(place: str) -> Callable[[Bench], None]:
    def break_it(bench: Bench) -> None:
        bench.store = place.format(root=bench.root)

    return break_it


def file_as_store(bench: Bench) -> None:
    bench.store_folder.write_text("in the way")


def folder_in_a_file(bench: Bench) -> None:
    (bench.root / "taken").write_text("in the way")
    bench.store = str(bench.root / "taken" / "store")


HUB = {"hub": "cnt-tests/absent-model", "revision": COMMIT}
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
    Fault("take nothing", key("prompts.function.take", 0), ("study.yaml:prompts.function.take", "it holds 0")),
    Fault(
        "one model twice",
        key("models.donor", {"package": "cnt_pipeline", "file": "demo/models/helpful"}),
        ("study.yaml:models", "target and donor are the same model", "name a donor"),
    ),
    Fault("two names of one model folder", two_names_of_one_folder, ("target and donor are the same", "name a donor")),
]
MODEL_SOURCES = [
    Fault("missing model folder", key("models.donor", {"path": "nowhere"}), ("nowhere does not exist", "correct it")),
    Fault(
        "a file as model folder",
        key("models.donor", {"path": "study.yaml"}),
        ("is a file", "give the folder that holds it"),
    ),
    Fault(
        "hub model without revision",
        key("models.donor", {"hub": "org/name"}),
        ("study.yaml:models.donor", "40-digit commit hash"),
    ),
    Fault(
        "hub model out of reach",
        key("models.donor", HUB),
        ("HF_HUB_OFFLINE is set", "hf download cnt-tests/absent-model"),
        offline=True,
    ),
    Fault(
        "package not installed",
        key("models.donor", {"package": "no-such-package-at-all", "file": "model"}),
        ("'no-such-package-at-all' is not installed", "pip install"),
    ),
    Fault(
        "missing folder in a package",
        key("models.donor", {"package": "cnt_pipeline", "file": "demo/models/shy"}),
        ("'cnt_pipeline' holds no demo/models/shy", "correct it"),
    ),
    Fault(
        "two sources of one model",
        key("models.donor", {"path": "a", "hub": "org/name"}),
        ("models.donor", "exactly one source"),
    ),
]
MODEL_FILES = [
    Fault(
        "no safetensors",
        model_file("donor", "model.safetensors", Path.unlink),
        ("holds no model.safetensors", "save_pretrained"),
    ),
    Fault("pickle checkpoint", pickle_only, ("only pickle weights (pytorch_model.bin)", "safe_serialization=True")),
    Fault(
        "truncated safetensors",
        model_file("target", "model.safetensors", lambda p: cut(p, 5000)),
        ("no intact safetensors file (truncated", "fetch or save it again"),
    ),
    Fault(
        "garbage header",
        model_file("target", "model.safetensors", lambda p: spoil_start(p, (64).to_bytes(8, "little") + b"\x00pickle")),
        ("its header is no JSON object", "fetch or save it again"),
    ),
    Fault(
        "header past the end",
        model_file("donor", "model.safetensors", lambda p: spoil_start(p, (90_000_000).to_bytes(8, "little"))),
        ("truncated inside its header", "fetch or save it again"),
    ),
    Fault(
        "empty weight file",
        model_file("donor", "model.safetensors", lambda p: p.write_bytes(b"")),
        ("0 bytes", "fetch or save it again"),
    ),
    Fault(
        "missing shard",
        missing_shard,
        ("absent shard(s), first model-00002-of-00002.safetensors", "finish the download"),
    ),
]
MODEL_PAIR = [
    Fault(
        "missing config",
        model_file("donor", "config.json", Path.unlink),
        ("holds no config.json",),
        HEADERS,
        step="models/donor",
    ),
    Fault(
        "broken config",
        model_file("target", "config.json", lambda p: cut(p, 40)),
        ("config.json cannot be read", "fetch the model again"),
        HEADERS,
        step="models/target",
    ),
    Fault("absent tensor", absent_tensor, ("model.layers.2.mlp.up_proj.weight",), HEADERS, step="models/donor"),
    Fault(
        "unsupported architecture",
        config("donor", model_type="mamba"),
        ("'mamba', which is not supported", "choose another model"),
        HEADERS,
        step="models/donor",
    ),
    Fault(
        "quantised checkpoint",
        config("donor", quantization_config={"quant_method": "gptq"}),
        ("is quantised", "use the unquantised"),
        HEADERS,
        step="models/donor",
    ),
    Fault(
        "code of its own",
        remote_code,
        ("'own_llama', which is not supported", "choose another model"),
        HEADERS,
        step="models/donor",
    ),
    Fault(
        "config of another size",
        config("donor", num_hidden_layers=6),
        ("aligned/config.json".replace("aligned", "donor"),),
        HEADERS,
        step="models/donor",
    ),
    Fault(
        "other architecture",
        config("donor", model_type="mistral"),
        ("cannot exchange neurons: choose another donor", "llama", "mistral"),
        HEADERS,
        step="models/pair",
    ),
    Fault(
        "other vocabulary",
        grown_vocabulary,
        ("vocabulary", "1125", "1126", "1 token(s) were added to the donor"),
        HEADERS,
        step="models/pair",
    ),
    Fault("other shape", narrower_ffn, ("ffn", "384", "382", "models of different sizes"), HEADERS, step="models/pair"),
    Fault(
        "other tokenizer",
        model_file("donor", "tokenizer.json", other_tokens),
        ("give both models the same tokenizer files", "tokenizer vocabulary"),
        HEADERS,
        step="models/pair",
    ),
    Fault(
        "other chat template",
        model_file("donor", "chat_template.jinja", lambda p: p.write_text(p.read_text() + "\n!")),
        ("give both models the same chat_template.jinja",),
        HEADERS,
        step="models/pair",
    ),
    Fault(
        "missing tokenizer", no_tokenizer, ("holds no tokenizer", "copy tokenizer.json"), HEADERS, step="models/pair"
    ),
    Fault(
        "NaN in the target",
        not_a_number("target"),
        ("model.layers.1.mlp.up_proj.weight", "NaN or infinite", "use another checkpoint"),
        WORK,
        step="models/pair",
    ),
    Fault(
        "NaN in the donor",
        not_a_number("donor"),
        ("donor/model.safetensors", "NaN or infinite", "use another checkpoint"),
        WORK,
        step="models/pair",
    ),
]
PROMPT_SOURCES = [
    Fault("missing prompt file", prompt_file(Path.unlink), ("function.score.jsonl does not exist", "correct `file:`")),
    Fault(
        "unknown packaged set",
        key("prompts.function", {"packaged": "harm.score"}),
        ("no packaged prompt set 'harm.score'", "harmful.score"),
    ),
    Fault(
        "missing prompt file in a package",
        key("prompts.function", {"package": "cnt_pipeline", "file": "none.jsonl"}),
        ("'cnt_pipeline' holds no none.jsonl", "correct it"),
    ),
    Fault(
        "dataset without revision",
        key("prompts.function", {"hub": "org/data"}),
        ("study.yaml:prompts.function", "40-digit commit hash"),
    ),
]
PROMPTS = [
    Fault(name, break_it, words, HEADERS, step="prompt_sets/roles")
    for name, break_it, words in (
        (
            "empty prompt file",
            prompt_file(lambda p: p.write_text("")),
            ("prompts.function", "holds no rows", "has prompts"),
        ),
        (
            "unknown kind of prompt file",
            other_prompt_file("prompts.xlsx", b"PK"),
            ("prompts.xlsx is none of", ".jsonl", "convert"),
        ),
        (
            "bad JSON line",
            prompt_file(lambda p: p.write_text(p.read_text() + '{"text": \n')),
            ("line 13 is not JSON", "correct"),
        ),
        (
            "a line without names",
            prompt_file(lambda p: p.write_text('"only text"\n')),
            ("line 1 is not a JSON object",),
        ),
        (
            "broken CSV",
            other_prompt_file("prompts.csv", b'text,answers\n"one" two,\n'),
            ("prompts.csv, line 2 is not CSV", "quoting"),
        ),
        (
            "CSV with unquoted commas",
            other_prompt_file("prompts.csv", b"text\none, two\n"),
            ("more fields than the header", "quote"),
        ),
        (
            "corrupt Parquet",
            other_prompt_file("prompts.parquet", b"PAR1" + bytes(64) + b"PAR1"),
            ("prompts.parquet is not a readable Parquet file", "write it again"),
        ),
        (
            "prompt file of other bytes",
            other_prompt_file("prompts.jsonl", b"\xff\xfe{}"),
            ("prompts.jsonl cannot be read", "check the file"),
        ),
        (
            "missing text column",
            other_prompt_file("prompts.csv", b"question\nWhat now?\n"),
            ("no column 'text' (it has question)", "columns"),
        ),
        (
            "empty text",
            changed_row("utility.test", text="  "),
            ("prompts.test.utility: row 4", "empty", "fill or remove"),
        ),
        ("no row left by a filter", key("prompts.function.where", {"id": "nobody"}), ("no row that `where:` keeps",)),
        (
            "filter on an absent column",
            key("prompts.function.where", {"language": "en"}),
            ("no column 'language'", "it has"),
        ),
        (
            "one prompt in two roles",
            shared_prompt,
            ("prompts.function and prompts.test.function share a prompt (ids ", "remove it from one"),
        ),
        (
            "too few rows for three roles",
            one_row_for_three_roles,
            ("no prompt is left for this role", "give it more rows"),
        ),
    )
]
WORKING = [
    Fault(
        "pronoun gap without choices",
        gap_without_choices,
        ("the metric pronoun_gap can judge no function prompt", "give prompts.function a column of choices"),
        HEADERS,
        step="completions/target/score",
    ),
    Fault(
        "dataset out of reach",
        key("prompts.function", {"hub": "cnt-tests/absent-data", "revision": COMMIT}),
        ("the dataset cnt-tests/absent-data", "cannot be loaded", "check its name"),
        WORK,
        step="prompt_sets/roles",
        offline=True,
    ),
    Fault(
        "prompt longer than the context",
        changed_row("function.test", text="break into " * 200),
        ("function.test.jsonl, row 4", "exceeds the model's context of 256", "shorten it"),
        WORK,
        step="completions/target/test",
    ),
    Fault(
        "unknown device",
        key("run.device", "warp"),
        ("the device 'warp' cannot be used", "choose cpu"),
        WORK,
        step="completions/target/score",
    ),
    Fault(
        "absent device",
        key("run.device", "cuda:63"),
        ("the device 'cuda:63' cannot be used", "choose cpu"),
        WORK,
        step="completions/target/score",
    ),
    Fault(
        "donor without the function",
        swapped_models,
        ("the donor is not admissible", "choose another donor"),
        WORK,
        1,
        "transplants/selection",
    ),
    Fault(
        "copy of the target as donor",
        copied_target,
        ("the donor is not admissible", "choose another donor"),
        WORK,
        1,
        "transplants/selection",
    ),
]
STORES = [
    Fault(
        "store is a file",
        file_as_store,
        ("needs a folder where a file lies", "move it, or name another store"),
        (PLAN, RUN),
    ),
    Fault(
        "store below a file",
        folder_in_a_file,
        ("needs a folder where a file lies", "move it, or name another store"),
        (PLAN, RUN),
    ),
    Fault(
        "unknown store protocol",
        store_is("warp://bucket/store"),
        ("warp://bucket/store", "name a folder or an fsspec URL"),
        (PLAN, RUN),
    ),
    Fault(
        "store where no folder can be",
        store_is("/proc/cnt-store"),
        ("/proc/cnt-store", "name another store"),
        (RUN,),
        step="models/donor",
    ),
]
OTHER_COMMANDS = [
    Fault(
        "bad SQL",
        lambda b: None,
        ("the SQL cannot be answered", "Parser Error"),
        (("query", "selec 1", "--store", "{store}"),),
    ),
    Fault(
        "unknown view",
        lambda b: None,
        ("Table with name nothing does not exist",),
        (("query", "select * from nothing", "--store", "{store}"),),
    ),
    Fault(
        "SQL that changes",
        lambda b: None,
        ("only reads", "SELECT"),
        (("query", "create table a (b int)", "--store", "{store}"),),
    ),
    Fault(
        "two questions at once",
        lambda b: None,
        ("give one SQL statement",),
        (("query", "select 1; select 2", "--store", "{store}"),),
    ),
    Fault(
        "view of an empty store",
        lambda b: None,
        ("holds nothing for the view metrics yet", "run a study first"),
        (("query", "select * from metrics", "--store", "{store}"),),
    ),
    Fault(
        "report before a run",
        lambda b: None,
        ("report of small is not built", "run `cnt run"),
        (("report", "{study}", "--store", "{store}"),),
    ),
    Fault(
        "init onto a file",
        lambda b: None,
        ("exists already and is left as it is", "name another file"),
        (("init", "{study}"),),
    ),
    Fault(
        "init below a file", lambda b: None, ("cannot be written", "name a place"), (("init", "{study}/inner.yaml"),)
    ),
    Fault(
        "unknown document",
        lambda b: None,
        ("there is no document 'runs'", "run, plan, status, study"),
        (("schema", "runs"),),
    ),
    Fault(
        "revert of nothing",
        lambda b: None,
        ("is no folder", "give the checkpoint"),
        (("revert", "{root}/none", "--out", "{root}/out"),),
    ),
    Fault(
        "revert without a patch",
        lambda b: b.own("target"),
        ("no inverse patch", "--patch"),
        (("revert", "{root}/target", "--out", "{root}/out"),),
    ),
    Fault(
        "gc for a missing study",
        lambda b: b.study_file.unlink(),
        ("no such study file",),
        (("gc", "{study}", "--store", "{store}"),),
    ),
    Fault(
        "UI of a missing study",
        lambda b: b.study_file.unlink(),
        ("no study file there", "cnt init"),
        (("ui", "{study}", "--store", "{store}"),),
    ),
]
FAULTS = [
    *STUDY_FILE,
    *MODEL_SOURCES,
    *MODEL_FILES,
    *MODEL_PAIR,
    *PROMPT_SOURCES,
    *PROMPTS,
    *WORKING,
    *STORES,
    *OTHER_COMMANDS,
]
