"""Models with adapters: kept as such beside the merged model, read from a folder, and edited as such."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from cnt_pipeline.errors import InputError, StudyError
from cnt_pipeline.models.adapter_files import CONFIG, WEIGHTS
from cnt_pipeline.models.adapters import read_adapter, write_merged
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.models.tensors import read_index
from cnt_pipeline.pipeline.donor_steps import needed_for
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.steps import steps_of
from cnt_pipeline.study.load import load_study
from tests.caching.test_derived_models import Shop, new_shop

EDIT = "transplants/compared_nlsr"
SHARED = {"target_adapter", "donor_adapter"}


def files_of(artifact: Any) -> dict[str, Any]:
    described: dict[str, Any] = json.loads(artifact.path("model.json").read_text())["files"]
    return described


def lineage(document: dict[str, Any]) -> None:
    """The packaged model before alignment, an aligned one, and one that drifted: both by adapters on the first."""
    recipe = document["models"]["drifted"]
    document["models"] = {
        "base": document["models"]["target"],
        "donor": {**recipe, "base": "base"},
        "target": {**recipe, "base": "base", "steps": 5},
    }
    document["compare"] = {"methods": ["nlsr"]}


@pytest.fixture(scope="session")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A study whose `donor` and `target` were taught, and the target repaired."""
    shop = new_shop(tmp_path_factory.mktemp("adapters"))
    shop.edit(lineage)
    chain = shop.chain()
    for step in needed_for([EDIT], steps_of(load_study(shop.file))):
        chain.take(step.key)
    return shop


@pytest.fixture
def shop(taught: Shop, tmp_path: Path) -> Shop:
    return Shop(Path(shutil.copytree(taught.root, tmp_path / "copy")))


def given(shop: Shop) -> Path:
    """The donor's adapter as a folder beside the study, which then names it."""
    folder = shop.root / "adapter"
    shutil.copytree(shop.chain().artifact("models/donor").folder() / "adapter", folder)
    shop.edit(lambda study: study["models"].update(donor={"adapter": "adapter", "base": "base"}))
    return folder


def test_a_taught_model_keeps_its_adapter_and_base_with_adapter_is_the_model(taught: Shop, tmp_path: Path) -> None:
    made = taught.chain().artifact("models/target").folder()
    base = package_path("cnt_pipeline", "demo/models/helpful")
    write_merged(base, read_adapter(made / "adapter", read_index(base)), tmp_path / "model")
    merged, kept = (folder / "model.safetensors" for folder in (tmp_path / "model", made / "model"))
    assert merged.read_bytes() == kept.read_bytes()


def test_peft_reads_the_adapter_of_a_taught_model(taught: Shop) -> None:
    from peft import PeftConfig

    config = PeftConfig.from_pretrained(str(taught.chain().artifact("models/target").folder() / "adapter"))
    assert (config.r, config.lora_alpha, config.peft_type) == (4, 32, "LORA")  # type: ignore[attr-defined]


def test_a_given_adapter_makes_the_same_model_as_the_recipe_that_learned_it(shop: Shop) -> None:
    before = shop.chain().artifact("models/donor")
    folder = given(shop)
    taken = shop.chain().take("models/donor").built
    assert not taken.hit
    assert files_of(taken.artifact) == files_of(before)
    for name in (CONFIG, WEIGHTS):
        assert (taken.artifact.folder() / "adapter" / name).read_bytes() == (folder / name).read_bytes()
    assert taken.artifact.manifest.metadata["base"] == "base"
    assert shop.chain().take("models/donor").built.hit
    study = load_study(shop.file)
    assert source_name(study.models, "donor") == "adapter on cnt_pipeline/demo/models/helpful"


def test_a_given_adapter_is_known_by_its_files_and_not_by_their_place(shop: Shop) -> None:
    folder = given(shop)
    shop.chain().take("models/donor")
    (folder / "README.md").write_text("beside the point")
    folder.rename(folder.with_name("elsewhere"))
    shop.edit(lambda study: study["models"]["donor"].update(adapter="elsewhere"))
    assert shop.chain().take("models/donor").built.hit
    config = json.loads((shop.root / "elsewhere" / CONFIG).read_text())
    (shop.root / "elsewhere" / CONFIG).write_text(json.dumps({**config, "lora_alpha": 2}))
    assert not shop.chain().take("models/donor").built.hit


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_made(shop: Shop) -> None:
    folder = given(shop)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, "r": 5}))
    with pytest.raises(InputError, match=r"where config and base model need \[5, \d+\]"):
        plan(load_study(shop.file), shop.store)


def test_the_repaired_checkpoint_is_the_base_with_the_repaired_adapter(taught: Shop, tmp_path: Path) -> None:
    made = taught.chain().artifact(EDIT)
    assert made.manifest.metadata["adapter"] is True
    assert set(made.manifest.inputs) >= SHARED
    base = package_path("cnt_pipeline", "demo/models/helpful")
    write_merged(base, read_adapter(made.folder() / "adapter", read_index(base)), tmp_path / "model")
    merged, kept = (load_file(folder / "model.safetensors") for folder in (tmp_path / "model", made.folder() / "model"))
    for name, tensor in kept.items():
        # Rounded to bfloat16 from sums that differ by float32's rounding: at most one step of 2^-8.
        assert (tensor.float() - merged[name].float()).abs().max() <= 2**-8 * tensor.float().abs().max(), name
        assert (tensor != merged[name]).float().mean() < 1e-3, name


def inputs_of(shop: Shop) -> set[str]:
    return set(next(step for step in steps_of(load_study(shop.file)) if step.key == EDIT).inputs)


def test_adapters_are_read_only_where_both_models_are_made_from_the_base_in_its_order(shop: Shop) -> None:
    assert inputs_of(shop) >= SHARED
    shop.edit(lambda study: study["compare"].update(methods=[{"method": "nlsr", "options": {"factors": "svd"}}]))
    assert not inputs_of(shop) & SHARED
    shop.edit(lambda study: study.update(compare={"methods": ["nlsr"]}, match="activation"))
    assert not inputs_of(shop) & SHARED
    shop.edit(lambda study: study.update(match="index"))
    shop.edit(lambda study: study["models"]["target"].update(base="donor"))
    assert not inputs_of(shop) & SHARED
    shop.edit(lambda study: study["compare"].update(methods=[{"method": "nlsr", "options": {"factors": "adapter"}}]))
    with pytest.raises(StudyError, match="nlsr asks for `factors: adapter`, but target and donor are not both made"):
        steps_of(load_study(shop.file))


def test_check_names_the_adapter_and_plan_waits_for_its_base_without_torch(shop: Shop) -> None:
    given(shop)
    shop.edit(lambda study: study["models"].update(target={"adapter": "adapter", "base": "donor"}))
    checked = shop.cnt("check", "study.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "donor: base with the adapter adapter, merged to full weights" in checked.stdout
    assert "`cnt run` makes the target and donor" in checked.stdout
    waiting = {each.step.key: each.why for each in plan(load_study(shop.file), shop.store)}
    assert waiting["models/target"] == "waits for models/donor"
    code = (
        "import sys; from pathlib import Path; from cnt_pipeline.study.load import load_study\n"
        "from cnt_pipeline.pipeline.plan import plan; from cnt_pipeline.store import Store\n"
        "plan(load_study(Path('study.yaml')), Store('store'))\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=shop.root, check=True)
