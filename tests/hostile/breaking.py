"""The ways in which the table breaks a study, its models, its prompts and its store."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.conftest import Bench, edit_json, read_tensors, write_tensors


def study_text(change: Callable[[str], str]) -> Callable[[Bench], None]:
    def break_it(bench: Bench) -> None:
        bench.study_file.write_text(change(bench.study_file.read_text()))

    return break_it


def key(name: str, value: Any) -> Callable[[Bench], None]:
    return lambda bench: bench.put(name, value)


def suite_file(text: str) -> Callable[[Bench], None]:
    """A suite of the user's own, written in the file `own.yaml`."""

    def break_it(bench: Bench) -> None:
        (bench.root / "own.yaml").write_text(text)
        bench.put("suites", [{"suite": "custom", "file": "own.yaml"}])

    return break_it


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


def adapter(change: Callable[[Path], Any] = lambda folder: None) -> Callable[[Bench], None]:
    """The donor is the target with an adapter of one matrix, which `change` spoils."""

    def break_it(bench: Bench) -> None:
        folder = bench.root / "adapter"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1, "bias": "none", "target_modules": ["up_proj"]})
        )
        shape = read_tensors(bench.own("target") / "model.safetensors")["model.layers.1.mlp.up_proj.weight"][1]
        place = "base_model.model.model.layers.1.mlp.up_proj"
        write_tensors(
            folder / "adapter_model.safetensors",
            {
                f"{place}.lora_A.weight": ("F32", [1, shape[1]], bytes(4 * shape[1])),
                f"{place}.lora_B.weight": ("F32", [shape[0], 1], bytes(4 * shape[0])),
            },
        )
        change(folder)
        bench.put("models.donor", {"adapter": "adapter", "base": "target"})

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
