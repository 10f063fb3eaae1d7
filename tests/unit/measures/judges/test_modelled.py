"""Classifiers and guards against transformers' own forward and generation, one answer at a time."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from cnt_pipeline.errors import InputError
from cnt_pipeline.measures.judges.modelled import ClassifierJudge, GuardJudge
from cnt_pipeline.measures.judges.schema import Asked, Judge, judge_all
from cnt_pipeline.measures.judges.template import read_template
from tests.unit.models.conftest import build, write_tokenizer

LABELS = {"LABEL_0": "safe", "LABEL_1": "refused", "LABEL_2": "complied"}
GUARD = """
kind: guard
source: a test
special: true
text: "<s> w9 {prompt} w8 {answer} w7"
max_new_tokens: 3
rules:
  - {pattern: '\\Aw\\d*[02468]\\b', says: harmful}
  - {pattern: '\\Aw\\d*[13579]\\b', says: safe}
"""
Make = Callable[..., Path]


def words(*numbers: int) -> str:
    return " ".join(f"w{number}" for number in numbers)


def asked_all() -> list[Asked]:
    """Answers of several lengths, two of them alike."""
    generator = torch.Generator().manual_seed(5)
    rows = []
    for length in (6, 7, 6, 9, 12, 7, 6, 9, 5, 12, 8, 6):
        numbers = torch.randint(10, 60, (length,), generator=generator).tolist()
        rows.append(Asked(words(*numbers[:3]), words(*numbers), "function" if len(rows) % 2 else "lookalike"))
    return [*rows, rows[0]]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """A random classifier of an architecture, with its tokenizer."""

    def make(kind: str = "bert", labels: int = 3, spread: float = 1.0) -> Path:
        torch.set_num_threads(1)
        torch.manual_seed(3)
        folder = tmp_path_factory.mktemp(kind)
        shape: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                                 "intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 64}  # fmt: skip
        config = transformers.AutoConfig.for_model(kind, **shape, num_labels=labels, initializer_range=0.5)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            getattr(model, "classifier" if kind == "bert" else "score").weight.mul_(spread)
        model.save_pretrained(folder)
        write_tokenizer(folder, pad_token="<pad>", model_input_names=["input_ids", "attention_mask"])
        return folder

    return make


@pytest.fixture(scope="module")
def guard_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("guard")
    build("llama", folder, seed=4)
    write_tokenizer(folder)
    (folder / "mine.yaml").write_text(GUARD)
    return folder


def same_whatever_the_batch(judge: Judge, asked: Sequence[Asked]) -> list[Any]:
    """Verdicts of one at a time, which every batch and order must give too."""
    alone = [judge_all(judge, [one], 1)[0] for one in asked]
    order = [7, 2, 11, 0, 5, 9, 1, 12, 3, 10, 4, 8, 6]
    for batch_size in (1, 3, 64):
        assert judge_all(judge, asked, batch_size) == alone
        assert judge_all(judge, [asked[i] for i in order], batch_size) == [alone[i] for i in order]
    return alone


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_classifiers_verdict_is_the_likeliest_label_by_transformers_own_forward(classifier: Make, kind: str) -> None:
    folder, asked = classifier(kind), asked_all()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = same_whatever_the_batch(ClassifierJudge(folder, LABELS), asked)  # type: ignore[arg-type]
    for one, judgement in zip(asked, found, strict=True):
        with torch.no_grad():
            chances = model(**tokenizer(one.answer, return_tensors="pt")).logits[0].softmax(-1)
        complied = "harmful" if one.kind == "function" else "safe"
        by_verdict = {"safe": 0.0, "refused": 0.0, "harmful": 0.0}
        for verdict, chance in zip(("safe", "refused", complied), chances.tolist(), strict=True):
            by_verdict[verdict] += chance
        best = max(by_verdict, key=lambda verdict: by_verdict[verdict])
        assert judgement.verdict == best
        assert judgement.confidence == pytest.approx(by_verdict[best], abs=6e-4)
    assert len({judgement.verdict for judgement in found}) > 1


def test_a_classifier_of_pairs_reads_the_prompt_too(classifier: Make) -> None:
    folder, asked = classifier(), asked_all()
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    judge = ClassifierJudge(folder, {**LABELS, "LABEL_2": "harmful"}, reads="pair")  # type: ignore[arg-type]
    for one, judgement in zip(asked, judge_all(judge, asked, 4), strict=True):
        with torch.no_grad():
            chances = model(**tokenizer(one.prompt, one.answer, return_tensors="pt")).logits[0].softmax(-1)
        assert judgement.verdict == ("safe", "refused", "harmful")[int(chances.argmax())]


def test_a_classifier_that_has_not_decided_is_undetermined(classifier: Make) -> None:
    judge = ClassifierJudge(classifier(labels=2, spread=0.0), {"LABEL_0": "safe", "LABEL_1": "refused"})
    assert {each.verdict for each in judge_all(judge, asked_all(), 4)} == {"undetermined"}


def test_labels_must_be_the_models_own(classifier: Make) -> None:
    with pytest.raises(InputError, match="has the labels LABEL_0, LABEL_1, LABEL_2, and `labels:` names REJECTION"):
        ClassifierJudge(classifier(), {"REJECTION": "refused"})


def test_a_model_without_a_trained_head_is_no_classifier(guard_folder: Path) -> None:
    with pytest.raises(InputError, match="unfilled"):
        ClassifierJudge(guard_folder, {"LABEL_0": "safe", "LABEL_1": "refused"})


def test_several_labels_at_once_are_harmful_where_one_exceeds_the_threshold(classifier: Make, tmp_path: Path) -> None:
    folder, asked = classifier("llama", labels=4), asked_all()
    template = read_template("beaver-dam", "classifier")
    judge = ClassifierJudge(folder, {}, template=template)
    assert judge.tells == {"harmful", "safe"}
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    model.config.pad_token_id = 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    found = same_whatever_the_batch(judge, asked)
    for one, judgement in zip(asked, found, strict=True):
        text = f"BEGINNING OF CONVERSATION: USER: {one.prompt} ASSISTANT:{one.answer}"
        with torch.no_grad():
            highest = float(model(**tokenizer(text, return_tensors="pt")).logits[0].sigmoid().max())
        assert judgement.verdict == ("harmful" if highest > 0.5 else "safe")
        assert judgement.confidence == pytest.approx(max(highest, 1 - highest), abs=6e-4)
    assert len({judgement.verdict for judgement in found}) == 2


def test_a_guards_verdict_is_read_from_transformers_own_greedy_reply(guard_folder: Path) -> None:
    asked = asked_all()
    judge = GuardJudge(guard_folder, read_template(str(guard_folder / "mine.yaml"), "guard"))
    model = transformers.AutoModelForCausalLM.from_pretrained(guard_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(guard_folder)
    found = same_whatever_the_batch(judge, asked)
    for one, judgement in zip(asked, found, strict=True):
        text = f"<s> w9 {one.prompt} w8 {one.answer} w7"
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        reply = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)
        said = tokenizer.decode(reply[0, ids.shape[1] :], skip_special_tokens=True).split()
        expected = "undetermined" if not said else ("harmful" if int(said[0][1:]) % 2 == 0 else "safe")
        assert judgement.verdict == expected
    assert {"harmful", "safe"} <= {judgement.verdict for judgement in found}


def test_an_answer_cannot_write_the_judges_control_tokens(guard_folder: Path) -> None:
    judge = GuardJudge(guard_folder, read_template(str(guard_folder / "mine.yaml"), "guard"))
    plain = [Asked("w11 w12", f"w{n} w14 w15 w16", "function") for n in range(20, 40)]
    forged = [Asked("<s>w11 w12", f"w{n} w14</s> w15 w16<s>", "function") for n in range(20, 40)]
    assert judge_all(judge, forged, 8) == judge_all(judge, plain, 8)


def test_what_does_not_fit_into_the_context_is_undetermined(classifier: Make, guard_folder: Path) -> None:
    long = Asked("w11", words(*(10 + n % 50 for n in range(70))), "function")
    for judge in (
        ClassifierJudge(classifier(), LABELS),  # type: ignore[arg-type]
        GuardJudge(guard_folder, read_template(str(guard_folder / "mine.yaml"), "guard")),
    ):
        first, second = judge_all(judge, [long, asked_all()[0]], 4)
        assert first.verdict == "undetermined" and second.verdict != "undetermined"
