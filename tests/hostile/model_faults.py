"""What can be wrong with the models of a study."""

from pathlib import Path

from tests.hostile.breaking import (
    absent_tensor,
    adapter,
    config,
    cut,
    grown_vocabulary,
    key,
    missing_shard,
    model_file,
    narrower_ffn,
    no_tokenizer,
    not_a_number,
    other_tokens,
    pickle_only,
    remote_code,
    spoil_start,
)
from tests.hostile.conftest import edit_json
from tests.hostile.fault import HEADERS, WORK, Fault

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HUB = {"hub": "cnt-tests/absent-model", "revision": COMMIT}
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
ADAPTER_FILES = [
    Fault(
        "missing adapter folder",
        key("models.donor", {"adapter": "nowhere", "base": "target"}),
        ("nowhere is no folder", "adapter_config.json and adapter_model.safetensors"),
    ),
    Fault(
        "adapter without weights",
        adapter(lambda folder: (folder / "adapter_model.safetensors").unlink()),
        ("holds no adapter_model.safetensors", "save_pretrained"),
    ),
    Fault(
        "adapter of another kind",
        adapter(lambda folder: edit_json(folder / "adapter_config.json", peft_type="IA3")),
        ("`peft_type: IA3`", "merge_and_unload"),
    ),
    Fault(
        "adapter with magnitudes",
        adapter(lambda folder: edit_json(folder / "adapter_config.json", use_dora=True)),
        ("sets `use_dora`", "merge_and_unload"),
    ),
    Fault(
        "adapter of another rank",
        adapter(lambda folder: edit_json(folder / "adapter_config.json", r=2)),
        ("where config and base model need [2, ", "save it again"),
    ),
    Fault(
        "adapter of other layers",
        adapter(lambda folder: edit_json(folder / "adapter_config.json", layers_to_transform=[1, 99])),
        ("transforms layer 99, but the base has", "the adapter's own base model"),
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
