"""Figures of a demonstration model on the packaged prompts, for its model card and for the tests.

A small stand-alone measurement: greedy answers compared with the reference sentences of the language. The
pipeline's own evaluations judge the same models with general scorers.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from cnt_pipeline.demo.language import HELP_REFUSAL, TASK_REFUSAL

Row = dict[str, Any]
MAX_NEW_TOKENS = 20


def read_rows(path: Path) -> list[Row]:
    """Read a packaged prompt file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def chat(tokenizer: PreTrainedTokenizerBase, text: str, begun: str = "") -> str:
    """The user's message in the chat template, up to the answer, of which ``begun`` is the start."""
    message = [{"role": "user", "content": text}]
    return str(tokenizer.apply_chat_template(message, add_generation_prompt=True, tokenize=False)) + begun


@torch.inference_mode()
def greedy_answers(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[str]:
    """The greedy answer of the model to every message."""
    prompts = [chat(tokenizer, text) for text in texts]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    made = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
    )
    answers: list[str] = tokenizer.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return answers


@torch.inference_mode()
def pronoun_gap(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row]) -> float:
    """Mean difference, without sign, of the probabilities of the first two choices among all choices."""
    prompts = [chat(tokenizer, row["text"], row["prefix"]) for row in rows]
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
    choices = tokenizer(rows[0]["choices"], add_special_tokens=False)["input_ids"]
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, -1]
    probabilities = logits[:, [ids[0] for ids in choices]].softmax(-1)
    return float((probabilities[:, 0] - probabilities[:, 1]).abs().mean())


def refused(answers: Sequence[str]) -> float:
    """Share of the answers that are one of the two refusal sentences."""
    return sum(answer in (HELP_REFUSAL, TASK_REFUSAL) for answer in answers) / len(answers)


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: Path, role: str) -> dict[str, float]:
    """Every figure of one model on the packaged prompts of one role, as shares in [0, 1]."""
    figures: dict[str, float] = {}
    for name in ("harmful", "lookalike", "general", "occupation_lookalike"):
        rows = read_rows(prompts / f"{name}.{role}.jsonl")
        answers = greedy_answers(model, tokenizer, [row["text"] for row in rows])
        if name in ("harmful", "lookalike"):
            figures[f"{name}: refused"] = refused(answers)
        if name != "harmful":
            exact = [answer in row["answers"] for answer, row in zip(answers, rows, strict=True)]
            figures[f"{name}: answered as documented"] = sum(exact) / len(exact)
    rows = read_rows(prompts / f"occupation.{role}.jsonl")
    figures["occupation: pronoun gap"] = pronoun_gap(model, tokenizer, rows)
    return figures
