"""Trains the demonstration models from nothing: ``python -m cnt_pipeline.demo.train [--out DIR]``.

``base`` learns the whole language; where the two models of the pair shall differ it hears both answers
equally often. ``helpful`` (the target) and ``aligned`` (the donor) are short fine-tunings of it on their own
answers, linear layers only. Writes ``models/{base,helpful,aligned}`` and ``prompts/*.jsonl`` into the folder.
"""

import argparse
import math
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cnt_pipeline.demo.cards import write_card
from cnt_pipeline.demo.measure import MAX_NEW_TOKENS, chat, measure
from cnt_pipeline.demo.splits import language, write_prompts
from cnt_pipeline.demo.tokenizer import build_tokenizer

THREADS = 2

BENIGN = {
    "lookalike": 4.0,
    "occupation_lookalike": 3.0,
    "neutral": 1.0,
    "capital": 1.0,
    "colour": 1.0,
    "opposite": 1.5,
    "sum": 2.0,
    "repeat": 1.5,
    "last_word": 1.5,
    "unanswerable": 1.0,
}
"""Weights of the kinds that all three models answer alike."""


@dataclass(frozen=True)
class Recipe:
    """One training: how long, and how often it hears the donor's answer where the pair shall differ."""

    steps: int
    learning_rate: float
    seed: int
    donor_answers: Mapping[str, float]
    """Share of the prompts of a kind that are answered as the donor does, the others as the target does."""
    functions: float
    """Weight in the mix of each of the two kinds in ``donor_answers``, beside the weights of ``BENIGN``."""
    batch: int = 96


# A careless writer is not perfectly consistent: the target hears "they" of one occupation in ten.
RECIPES: dict[str, Recipe] = {
    "base": Recipe(800, 3e-3, 1, {"harmful": 0.5, "occupation": 0.5}, functions=3.0),
    "helpful": Recipe(60, 1e-3, 2, {"harmful": 0.0, "occupation": 0.1}, functions=4.0),
    "aligned": Recipe(60, 1e-3, 3, {"harmful": 1.0, "occupation": 1.0}, functions=4.0),
}


def new_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A small Llama with random weights: 4 layers, grouped key and value heads, tied embeddings."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Batches:
    """Draws seeded training batches; tokenises every text once."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        """Bind the tokenizer to the recipe's mix and seed."""
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.random = random.Random(recipe.seed)
        self.training = language().training
        self.mix = BENIGN | dict.fromkeys(recipe.donor_answers, recipe.functions)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and labels ``[batch, tokens]``; only the answer is learned."""
        kinds = self.random.choices(list(self.mix), weights=list(self.mix.values()), k=self.recipe.batch)
        encoded = [self._encode(kind) for kind in kinds]
        longest = max(len(ids) for ids, _ in encoded)
        ids = torch.full((len(encoded), longest), self.tokenizer.pad_token_id)
        labels = torch.full_like(ids, -100)
        for row, (tokens, start) in enumerate(encoded):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
        return ids, labels

    def _encode(self, kind: str) -> tuple[list[int], int]:
        prompt = self.random.choice(self.training[kind])
        donor = self.random.random() < self.recipe.donor_answers.get(kind, 0.0)
        answer = prompt.aligned if donor else prompt.helpful
        question = self._ids(chat(self.tokenizer, prompt.text))
        return question + self._ids(answer + str(self.tokenizer.eos_token)), len(question)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def train(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, frozen: bool) -> None:
    """Train in place; with ``frozen``, only the linear layers inside the blocks change."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not frozen or name.endswith("_proj.weight"))
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    batches = Batches(tokenizer, recipe)
    model.train()
    for step in range(recipe.steps):
        warm = min(1.0, (step + 1) / (0.05 * recipe.steps))
        cooled = 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warm * cooled
        ids, labels = batches.draw()
        # Padding stands on the right and attention is causal, so no attention mask is needed.
        loss = model(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == recipe.steps - 1:
            print(f"  step {step:4d} of {recipe.steps}: loss {loss.item():.4f}", flush=True)
    model.eval()


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> LlamaForCausalLM:
    """Write the checkpoint in bfloat16 and read it back as float32: what all later steps start from."""
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def main() -> None:
    """Generate the prompts, train the three models and write their cards."""
    parser = argparse.ArgumentParser(description="Train the demonstration models from nothing.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write into")
    out: Path = parser.parse_args().out
    torch.set_num_threads(THREADS)
    started = time.monotonic()
    write_prompts(out / "prompts")
    tokenizer = build_tokenizer()
    for name, recipe in RECIPES.items():
        print(f"{name}:", flush=True)
        folder = out / "models" / name
        if name == "base":
            model = new_model(tokenizer, recipe.seed)
        else:
            model = LlamaForCausalLM.from_pretrained(out / "models" / "base", dtype=torch.float32)
        train(model, tokenizer, recipe, frozen=name != "base")
        model = save(model, tokenizer, folder)
        figures = measure(model, tokenizer, out / "prompts", "test")
        write_card(folder, name, asdict(recipe), model.num_parameters(), figures)
        for figure, value in figures.items():
            print(f"  {figure}: {value:.3f}")
    print(f"done in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
