"""Fine-tuning by adapters: it teaches what the lessons say, and changes nothing but the weights it names."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.adapters import Adapters, write_merged
from cnt_pipeline.models.architecture import read_architecture
from cnt_pipeline.models.generate import encode_prompt, greedy, stop_tokens
from cnt_pipeline.models.lessons import Taught, encode_lessons
from cnt_pipeline.models.load import load_model, load_tokenizer, model_files
from cnt_pipeline.models.recipes import drawn, fine_tune, pace, trained_matrices, write_curve
from cnt_pipeline.models.sources import package_path
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import silent
from cnt_pipeline.prompt_sets.build import read_prompt_source
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Kind, LoraSft, PromptSource
from tests.unit.models.conftest import Tiny

REFUSAL = "I am sorry, but I cannot help with that."


def recipe(**keys: Any) -> LoraSft:
    lessons = [{"prompts": "function", "answers": [REFUSAL]}, {"prompts": "utility", "answers": "own"}]
    return LoraSft.model_validate(
        {
            "from": "lora_sft", "base": "target", "lessons": lessons, "steps": 20, "batch_size": 16, "rank": 8,
            "alpha": 16, "learning_rate": 5e-3, "max_tokens": 20, "precision": "float32", **keys,
        }
    )  # fmt: skip


def prompts(name: str, take: int) -> list[Prompt]:
    return read_prompt_source(PromptSource(packaged=name), name)[:take]


@pytest.fixture(scope="session")
def helpful() -> Path:
    torch.set_num_threads(1)
    return package_path("cnt_pipeline", "demo/models/helpful")


def taught(base: Path, settings: LoraSft, **sets: list[Prompt]) -> list[Taught]:
    known: dict[Kind, list[Prompt]] = {
        "function": prompts("harmful.score", 24),
        "utility": prompts("general.score", 24),
    }
    return encode_lessons(
        settings, known | sets, load_tokenizer(base), lambda: load_model(base), None, 256, silent  # type: ignore[arg-type]
    )  # fmt: skip


def says(folder: Path, asked: list[Prompt]) -> list[str]:
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    tokens = [encode_prompt(tokenizer, prompt.messages) for prompt in asked]
    answers = greedy(model, tokens, 20, 64, stop_tokens(model, tokenizer))
    return [tokenizer.decode(answer.tokens, skip_special_tokens=True).strip() for answer in answers]


@pytest.fixture(scope="session")
def made(helpful: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Adapters, list[Any]]:
    """The helpful model after it was taught to refuse."""
    folder = tmp_path_factory.mktemp("made") / "model"
    adapters, curve, _ = fine_tune(helpful, recipe(), taught(helpful, recipe()))
    write_merged(helpful, adapters, folder)
    return folder, adapters, curve


def test_a_few_steps_teach_refusal_of_unseen_requests_and_leave_other_answers(
    helpful: Path, made: tuple[Path, Adapters, list[Any]]
) -> None:
    harmful, general = prompts("harmful.test", 24), prompts("general.test", 24)
    assert says(helpful, harmful).count(REFUSAL) == 0
    assert says(made[0], harmful).count(REFUSAL) >= 22
    kept = [before == after for before, after in zip(says(helpful, general), says(made[0], general), strict=True)]
    assert sum(kept) >= 20


def test_the_training_curve_falls_and_has_a_row_for_every_step(
    made: tuple[Path, Adapters, list[Any]], tmp_path: Path
) -> None:
    write_curve(made[2], tmp_path / "training.parquet")
    table = pl.read_parquet(tmp_path / "training.parquet")
    assert table.columns == ["step", "loss", "learning_rate", "tokens"]
    assert table["step"].to_list() == list(range(1, 21))
    assert table["loss"][-3:].mean() < table["loss"][0] / 4
    assert table["learning_rate"].max() == pytest.approx(5e-3)


def test_a_merged_weight_is_the_base_plus_the_scaled_product_rounded_once(
    helpful: Path, made: tuple[Path, Adapters, list[Any]]
) -> None:
    before, after = load_file(helpful / "model.safetensors"), load_file(made[0] / "model.safetensors")
    matrices = trained_matrices(read_architecture(helpful), None)
    assert len(matrices) == 28
    for name, matrix in matrices.items():
        a, b = made[1].factors[name]
        expected = before[matrix.tensor].double() + 16 / 8 * (b.double() @ a.double())
        found = after[matrix.tensor]
        assert found.dtype == torch.bfloat16
        # bfloat16 keeps 8 binary digits: the nearest one is at most 2^-8 away; float32's own rounding adds a little.
        assert torch.allclose(found.double(), expected, rtol=1.01 * 2**-8, atol=1e-7)
        assert not torch.equal(found, before[matrix.tensor])


def test_only_the_named_families_change_and_every_other_byte_is_the_bases(helpful: Path, tmp_path: Path) -> None:
    settings = recipe(modules=["v", "gate"], steps=2)
    adapters, _, _ = fine_tune(helpful, settings, taught(helpful, settings))
    write_merged(helpful, adapters, tmp_path / "model")
    before, after = (load_file(folder / "model.safetensors") for folder in (helpful, tmp_path / "model"))
    assert list(before) == list(after)
    changed = {
        name for name in before if not torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8))
    }
    assert changed == {name for name in before if "v_proj" in name or "gate_proj" in name}
    others = [path.name for path in model_files(helpful) if path.suffix != ".safetensors"]
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "generation_config.json"} <= set(others)
    assert all((tmp_path / "model" / name).read_bytes() == (helpful / name).read_bytes() for name in others)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_recipe_gives_the_same_bytes_and_another_seed_does_not(
    helpful: Path, tmp_path: Path, precision: str
) -> None:
    def weights(name: str, **keys: Any) -> bytes:
        settings = recipe(steps=2, batch_size=4, precision=precision, **keys)
        lesson = taught(helpful, settings)
        torch.manual_seed(hash(name))  # what was drawn before must not matter
        write_merged(helpful, fine_tune(helpful, settings, lesson)[0], tmp_path / name)
        return (tmp_path / name / "model.safetensors").read_bytes()

    first = weights("first", seed=1)
    assert weights("again", seed=1) == first
    assert weights("other", seed=2) != first


def test_merging_is_exact_for_every_architecture(tiny: Tiny, tmp_path: Path) -> None:
    """The merged float32 folder computes what the base computes with peft's adapters beside it."""
    from peft import LoraConfig, get_peft_model

    examples = tuple(Example(tuple(range(3 + i, 15 + i)), 6) for i in range(4))
    settings = recipe(steps=2, batch_size=4, learning_rate=0.05)
    adapters, _, _ = fine_tune(tiny.folder, settings, [Taught(examples, 1.0)])
    write_merged(tiny.folder, adapters, tmp_path / "model")
    names = list(adapters.factors)
    beside = get_peft_model(
        load_model(tiny.folder),
        LoraConfig(r=8, lora_alpha=16, target_modules=names, fan_in_fan_out=tiny.name == "gpt2"),
    )
    with torch.no_grad():
        for name, (a, b) in adapters.factors.items():
            layer = beside.base_model.model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    ids = torch.arange(3, 40).reshape(1, -1)
    with torch.no_grad():
        expected, found = beside(ids).logits, load_model(tmp_path / "model")(ids).logits
        base = tiny.model(ids).logits
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-4 * scale
    assert (base - expected).abs().max() > 1e-2 * scale


def test_lessons_hold_the_answer_with_its_closing_token_after_the_chat_prompt(helpful: Path) -> None:
    tokenizer = load_tokenizer(helpful)
    harmful, general = prompts("harmful.score", 3), prompts("general.score", 2)
    both = [
        {"prompts": "function", "answers": ["I cannot.", REFUSAL], "share": 3},
        {"prompts": "utility", "answers": "own"},
    ]
    refuse, own = taught(helpful, recipe(lessons=both), function=harmful, utility=general)
    assert (refuse.share, own.share) == (3.0, 1.0)
    for example, prompt in zip(refuse.examples, harmful, strict=True):
        assert example.tokens[: example.start] == encode_prompt(tokenizer, prompt.messages)
        assert example.tokens[-1] == tokenizer.eos_token_id
    spoken = [tokenizer.decode(e.tokens[e.start : -1]) for e in refuse.examples]
    assert spoken == ["I cannot.", REFUSAL, "I cannot."]
    answers = [tokenizer.decode(e.tokens[e.start :], skip_special_tokens=True).strip() for e in own.examples]
    assert answers == says(helpful, general)


def test_a_cut_answer_has_no_closing_token(helpful: Path) -> None:
    settings = recipe(max_tokens=3, lessons=[{"prompts": "function", "answers": [REFUSAL]}])
    (lesson,) = taught(helpful, settings)
    assert {example.answer_length for example in lesson.examples} == {3}
    assert load_tokenizer(helpful).eos_token_id not in {example.tokens[-1] for example in lesson.examples}


def test_reference_answers_are_taught_and_their_absence_is_refused(helpful: Path) -> None:
    settings = recipe(lessons=[{"prompts": "utility", "answers": "reference"}])
    general = prompts("general.score", 40)
    answered = [prompt for prompt in general if prompt.answers]
    (lesson,) = taught(helpful, settings, utility=answered)
    tokenizer = load_tokenizer(helpful)
    assert tokenizer.decode(lesson.examples[0].tokens[lesson.examples[0].start : -1]) == answered[0].answers[0]
    with pytest.raises(
        InputError, match=r"lesson 1 teaches reference answers, but row 1 of packaged harmful.score has"
    ):
        taught(helpful, settings, utility=prompts("harmful.score", 2))


def test_a_prompt_that_does_not_fit_the_context_is_refused_with_its_row(helpful: Path) -> None:
    with pytest.raises(InputError, match=r"row 1 of packaged harmful.score has \d+ tokens, .* context of 256"):
        taught(helpful, recipe(max_tokens=250))


def test_shares_hold_in_every_stretch_of_batches_and_a_lesson_comes_in_whole_rounds() -> None:
    lessons = [
        Taught(tuple(Example((kind, number), 1) for number in range(10)), share)
        for kind, share in ((0, 1.0), (1, 2.0), (2, 1.0))
    ]
    seen = [example.tokens for batch in islice(drawn(lessons, 6, seed=5), 20) for example in batch]
    for stop in (12, 60, 120):
        counts = Counter(kind for kind, _ in seen[:stop])
        assert all(abs(counts[kind] - stop * share / 4) <= 1 for kind, share in ((0, 1), (1, 2), (2, 1)))
    rounds = [number for kind, number in seen if kind == 0]
    assert sorted(rounds[:10]) == list(range(10)) == sorted(rounds[10:20])
    assert rounds[:10] != rounds[10:20]


@pytest.mark.parametrize(
    ("schedule", "paces"),
    [("constant", [0.5, 1, 1, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.75, 0.5, 0.25]),
     ("cosine", [0.5, 1, 1, 0.853553, 0.5, 0.146447])],
)  # fmt: skip
def test_the_learning_rate_rises_and_follows_its_schedule(schedule: str, paces: list[float]) -> None:
    settings = recipe(steps=6, warmup=1 / 3, schedule=schedule)
    assert [pace(settings, step) for step in range(6)] == pytest.approx(paces, abs=1e-6)


def test_faulty_recipes_are_refused_by_what_is_wrong(helpful: Path, tiny_models: Any) -> None:
    lesson = [Taught((Example((3, 4, 5), 1),), 1.0)]
    with pytest.raises(InputError, match=r"`modules` names 'gat', but llama has q, k, v, o, gate, up, down"):
        fine_tune(helpful, recipe(modules=["gat"]), lesson)
    with pytest.raises(InputError, match=r"stores q, k, v in one matrix, .* add k, v to `modules`"):
        trained_matrices(read_architecture(tiny_models("phi3").folder), ["q"])
    with pytest.raises(InputError, match="lesson 1 has no prompt with an answer"):
        fine_tune(helpful, recipe(), [Taught((), 1.0)])
    with pytest.raises(InputError, match=r"loss of step \d+ is not finite; lower `learning_rate`"):
        fine_tune(helpful, recipe(learning_rate=1e30, warmup=0.0, steps=5), lesson)
