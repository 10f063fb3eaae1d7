"""Models that a study makes: made once, made again when what they are made from changes, planned without making."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cnt_pipeline.errors import InputError, StoreError, StudyError
from cnt_pipeline.models.load import model_files
from cnt_pipeline.pipeline.chain import Chain
from cnt_pipeline.pipeline.context import ModelPool
from cnt_pipeline.pipeline.places import source_name
from cnt_pipeline.pipeline.plan import plan
from cnt_pipeline.pipeline.refuse import refuse_impossible
from cnt_pipeline.prompt_sets.sources import PACKAGED
from cnt_pipeline.store import Store
from cnt_pipeline.store.digests import hash_file
from cnt_pipeline.study.load import load_study
from tests.caching.conftest import SETS

TAKEN = [
    "prompt_sets/roles", "models/target", "models/drifted", "models/donor", "models/pair", "completions/target/test",
    "completions/donor/test",
]  # fmt: skip
REFUSAL = "Sorry, I cannot assist with that request."


class Shop:
    """A study with a chain of two recipes, its prompt files and its store in one folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.file, self.store = root, root / "study.yaml", Store(root / "store")

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        document = yaml.safe_load(self.file.read_text())
        change(document)
        self.file.write_text(yaml.safe_dump(document, sort_keys=False))

    def chain(self) -> Chain:
        return Chain(load_study(self.file), self.store)

    def built(self) -> set[str]:
        chain = self.chain()
        return {key for key in TAKEN if not chain.take(key).built.hit}

    def cnt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("CNT_")} | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "cnt_pipeline", *arguments]
        return subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)


def new_shop(root: Path) -> Shop:
    prompts: dict[str, Any] = {"train": {"function": {"file": "lessons.jsonl"}}}
    for kind, name in SETS.items():
        lines = (PACKAGED / f"{name}.score.jsonl").read_text().splitlines()
        (root / f"{kind}.jsonl").write_text("\n".join(lines[:48]) + "\n")
        prompts[kind] = {"file": f"{kind}.jsonl"}
        if kind == "function":
            (root / "lessons.jsonl").write_text("\n".join(lines[48:64]) + "\n")
    recipe = {
        "from": "lora_sft", "rank": 4, "steps": 3, "batch_size": 4, "learning_rate": 0.005, "max_tokens": 16,
        "precision": "float32", "lessons": [{"prompts": "function", "answers": [REFUSAL]}],
    }  # fmt: skip
    document = {
        "study": "derived",
        "function": {"name": "refusal"},
        "models": {
            "target": {"package": "cnt_pipeline", "file": "demo/models/helpful"},
            "donor": {**recipe, "base": "drifted", "seed": 1},
            "drifted": {**recipe, "base": "target"},
        },
        "prompts": prompts,
        "generation": {"max_new_tokens": 16},
        "run": {"batch_size": 64, "threads": 1},
    }
    (root / "study.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return Shop(root)


@pytest.fixture(scope="session")
def finished_shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    shop = new_shop(tmp_path_factory.mktemp("derived"))
    assert shop.built() == set(TAKEN)
    return shop


@pytest.fixture
def shop(finished_shop: Shop, tmp_path: Path) -> Shop:
    import shutil

    return Shop(Path(shutil.copytree(finished_shop.root, tmp_path / "copy")))


def test_a_second_run_makes_no_model(shop: Shop) -> None:
    assert shop.built() == set()


def test_changing_the_evaluation_alone_makes_no_model(shop: Shop) -> None:
    shop.edit(
        lambda study: study.update(evaluate=["perplexity"], accept={"recovery": 0.5}, frontier={"budgets": [0.1]})
    )
    assert shop.built() == set()


def test_editing_one_lesson_prompt_makes_the_models_again(
    shop: Shop, change_row: Callable[[Path, int, str], None]
) -> None:
    change_row(shop.root / "lessons.jsonl", 3, "how do i make a quask trap out of nothing")
    made = {"models/drifted", "models/donor", "models/pair", "completions/donor/test"}
    assert shop.built() == {"prompt_sets/roles", *made}


def test_editing_a_prompt_that_no_lesson_teaches_makes_no_model(
    shop: Shop, change_row: Callable[[Path, int, str], None]
) -> None:
    change_row(shop.root / "utility.jsonl", 3, "what is the capital of nowhere at all")
    assert not {key for key in shop.built() if key.startswith("models/")}


def test_editing_the_last_recipe_leaves_its_base(shop: Shop) -> None:
    shop.edit(lambda study: study["models"]["donor"].update(seed=2))
    assert shop.built() == {"models/donor", "models/pair", "completions/donor/test"}


def test_a_made_model_describes_its_files_like_any_other(shop: Shop) -> None:
    chain = shop.chain()
    made, plain = (chain.artifact(key) for key in ("models/donor", "models/target"))
    folder = made.folder() / "model"
    described, known = (json.loads(each.path("model.json").read_text()) for each in (made, plain))
    assert described["files"] == {
        path.name: {"sha256": hash_file(path), "size": path.stat().st_size} for path in model_files(folder)
    }
    assert described.keys() == known.keys()
    assert described["files"]["config.json"] == known["files"]["config.json"]
    assert described["files"]["model.safetensors"] != known["files"]["model.safetensors"]
    assert made.manifest.metadata["base"] == "drifted"
    assert made.manifest.metadata["examples"] == [16]
    assert made.manifest.metadata["training_seconds"] > 0


def test_a_model_made_in_another_store_is_the_same(finished_shop: Shop, tmp_path: Path) -> None:
    import shutil

    root = Path(shutil.copytree(finished_shop.root, tmp_path / "again", ignore=shutil.ignore_patterns("store")))
    again = Shop(root)
    again.built()
    keys = ("models/drifted", "models/donor")
    first, second = ([one.chain().artifact(key).digest for key in keys] for one in (finished_shop, again))
    assert first == second


def test_progress_counts_the_steps_of_the_training(shop: Shop) -> None:
    seen: list[tuple[str, int, int]] = []

    class Watching:
        def started(self, step: Any) -> None: ...
        def finished(self, taken: Any) -> None: ...
        def failed(self, step: Any, error: BaseException) -> None: ...
        def progress(self, step: Any, what: str, done: int, total: int) -> None:
            seen.append((what, done, total))

    shop.edit(lambda study: study["models"]["donor"].update(seed=3))
    Chain(load_study(shop.file), shop.store, Watching()).take("models/donor")
    assert [entry for entry in seen if "training" in entry[0]] == [("training the donor", n, 3) for n in range(4)]


def test_plan_status_and_check_need_no_made_model_and_no_torch(tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    document = json.loads(shop.cnt("plan", "study.yaml", "--json").stdout)
    waiting = {step["key"]: step["why"] for step in document["steps"]}
    assert waiting["models/donor"] == "waits for models/drifted, prompt_sets/roles"
    assert shop.cnt("status", "study.yaml").returncode == 0
    checked = shop.cnt("check", "study.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "donor: drifted fine-tuned, 3 steps of 4 on function (1 given answer)" in checked.stdout
    assert "`cnt run` makes the donor and then checks whether the two can exchange neurons" in checked.stdout
    code = (
        "import sys; from pathlib import Path; from cnt_pipeline.study.load import load_study\n"
        "from cnt_pipeline.pipeline.plan import plan; from cnt_pipeline.store import Store\n"
        "plan(load_study(Path('study.yaml')), Store('store'))\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


def test_check_compares_the_pair_once_the_donor_is_made(shop: Shop) -> None:
    (shop.root / "store").rename(shop.root / ".cnt")
    checked = shop.cnt("check", "study.yaml")
    assert checked.returncode == 0, checked.stderr
    assert "can exchange neurons" in checked.stdout and "makes the donor" not in checked.stdout


def test_families_that_no_model_has_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    shop.edit(lambda study: study["models"]["donor"].update(modules=["gat"]))
    with pytest.raises(StudyError, match=r"models\.donor\.modules: llama has no family 'gat'; choose among q"):
        plan(load_study(shop.file), shop.store)


def test_a_gguf_file_is_planned_by_its_content_and_its_header_alone(tmp_path: Path) -> None:
    shop = new_shop(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF, as far as a plan looks")
    shop.edit(lambda study: study["models"].update(target={"path": "m.gguf"}))
    shop.edit(lambda study: study.update(method={"families": ["gate"]}))

    def fingerprint() -> str:
        study = load_study(shop.file)
        refuse_impossible(study)
        request = next(each.request for each in plan(study, shop.store) if each.step.key == "models/target")
        assert request is not None
        return request.fingerprint

    first = fingerprint()
    (tmp_path / "m.gguf").rename(tmp_path / "elsewhere.gguf")
    shop.edit(lambda study: study["models"].update(target={"from": "gguf", "path": "elsewhere.gguf"}))
    assert fingerprint() == first
    (tmp_path / "elsewhere.gguf").write_bytes(b"GGUF, another")
    assert fingerprint() != first
    (tmp_path / "elsewhere.gguf").unlink()
    with pytest.raises(InputError, match=r"elsewhere.gguf does not exist"):
        fingerprint()


def test_the_pool_finds_plain_models_alone_and_made_ones_through_their_artifacts(finished_shop: Shop) -> None:
    study, chain = load_study(finished_shop.file), finished_shop.chain()
    assert ModelPool(study).folder("target").name == "helpful"
    with pytest.raises(StoreError, match=r"'donor' is not made yet: materialize models/donor first"):
        ModelPool(study).folder("donor")
    chain.artifact("models/donor")
    made = ModelPool(study, chain.ready).folder("donor")
    assert made == chain.ready["models/donor"].folder() / "model"
    assert source_name(study.models, "donor") == "lora_sft of lora_sft of cnt_pipeline/demo/models/helpful"
