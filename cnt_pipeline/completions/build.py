"""Ask a model a prompt set: greedy answers, likelihoods of references and choices, and distance from the target."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.errors import InputError
from cnt_pipeline.models import generate, teacher
from cnt_pipeline.models.reading import continuation_logliks
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import Generation


@dataclass(frozen=True)
class EncodedSet:
    """A prompt set in one tokenizer's tokens, ready to be asked of any model that shares it.

    `answers` holds what the likelihood of a free answer is measured on: the first reference, and nothing where a prompt
    gives choices, which are compared with one another.
    """

    prompts: tuple[Prompt, ...]
    tokens: tuple[tuple[int, ...], ...]
    answers: tuple[tuple[int, ...], ...]
    choices: tuple[tuple[tuple[int, ...], ...], ...]


def encode_set(tokenizer: Any, prompts: Sequence[Prompt], settings: Generation, longest: int | None) -> EncodedSet:
    """Encode `prompts`; `longest` is the model's context length in tokens.

    Raises:
        InputError: a prompt without tokens, or one that does not fit into the context together with its answer.
    """
    tokens = [generate.encode_prompt(tokenizer, p.messages, p.prefix, settings.system) for p in prompts]
    for prompt, ids in zip(prompts, tokens, strict=True):
        if not ids:
            raise InputError(
                f"prompt {prompt.id} ({prompt.source}, row {prompt.row + 1}) has no tokens in this tokenizer; remove it"
            )
        if longest is not None and len(ids) + settings.max_new_tokens > longest:
            raise InputError(
                f"prompt {prompt.id} ({prompt.source}, row {prompt.row + 1}) has {len(ids)} tokens, and with "
                f"{settings.max_new_tokens} new ones it exceeds the model's context of {longest}; shorten it or lower "
                "`generation.max_new_tokens`"
            )

    def continuation(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])

    return EncodedSet(
        prompts=tuple(prompts),
        tokens=tuple(tokens),
        answers=tuple(continuation(_free_answer(prompt).removeprefix(prompt.prefix)) for prompt in prompts),
        choices=tuple(tuple(continuation(choice) for choice in p.choices) for p in prompts),
    )


def _free_answer(prompt: Prompt) -> str:
    return prompt.reference if prompt.choices else prompt.first_answer


def context_length(model: nn.Module) -> int | None:
    """Longest sequence the model was built for, in tokens."""
    length = getattr(model.config, "max_position_embeddings", None)
    return length if isinstance(length, int) else None


def complete(
    model: nn.Module,
    tokenizer: Any,
    encoded: EncodedSet,
    settings: Generation,
    batch_size: int,
    *,
    variant: int = 0,
    likelihoods: bool = True,
    multiple_choice: bool = True,
    report: Report = silent,
    what: str = "generating",
) -> list[Completion]:
    """The model's greedy answers and, with `likelihoods`, those of references and choices; a row per prompt.

    Without `multiple_choice` questions that the likelihoods of their choices decide get a row without an answer.
    """
    asked = [i for i, prompt in enumerate(encoded.prompts) if multiple_choice or not prompt.by_choice]
    done = 0

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report(what, done, len(asked))

    stop = generate.stop_tokens(model, tokenizer)
    answers = generate.greedy(
        model, [encoded.tokens[i] for i in asked], settings.max_new_tokens, batch_size, stop, progress
    )
    rows = [Completion.without_answer(prompt.id, variant) for prompt in encoded.prompts]
    for i, answer in zip(asked, answers, strict=True):
        rows[i] = replace(
            rows[i],
            text=tokenizer.decode(answer.tokens, skip_special_tokens=True).strip(),
            token_ids=answer.tokens,
            finished=answer.finished,
            loglik=answer.loglik,
        )
    return _with_likelihoods(model, encoded, rows, batch_size) if likelihoods else rows


def choice_logliks(model: nn.Module, encoded: EncodedSet, batch_size: int) -> list[tuple[float, ...]]:
    """Summed log-likelihood of every choice, a tuple per prompt."""
    return continuation_logliks(model, encoded.tokens, encoded.choices, batch_size)


def reference_nll(model: nn.Module, encoded: EncodedSet, batch_size: int) -> list[float | None]:
    """Mean negative log-likelihood per token of every prompt's reference answer, in nats; None where it has none."""
    answered = [i for i, answer in enumerate(encoded.answers) if answer]
    examples = [Example(encoded.tokens[i] + encoded.answers[i], len(encoded.tokens[i])) for i in answered]
    nll = dict(zip(answered, teacher.answer_nll(model, examples, batch_size), strict=True))
    return [nll.get(i) for i in range(len(encoded.prompts))]


def _with_likelihoods(
    model: nn.Module, encoded: EncodedSet, rows: list[Completion], batch_size: int
) -> list[Completion]:
    choices = choice_logliks(model, encoded, batch_size)
    nll = reference_nll(model, encoded, batch_size)
    return [
        replace(row, choice_loglik=listed, answer_nll=value)
        for row, listed, value in zip(rows, choices, nll, strict=True)
    ]


def compare_with_itself(rows: Sequence[Completion]) -> list[Completion]:
    """The target's own `rows`: it agrees with itself on every token it said, at no distance."""
    return [
        replace(row, target_nll=-row.loglik / len(row.token_ids), target_kl=0.0, target_agreement=1.0)
        if row.token_ids
        else row
        for row in rows
    ]


@torch.inference_mode()
def agree_with_target(
    model: nn.Module,
    encoded: EncodedSet,
    rows: list[Completion],
    target_rows: Sequence[Completion],
    batch_size: int,
) -> list[Completion]:
    """`rows` with the share of the target's answer tokens that the model puts first: the target's own first choices.

    Filled in where that is what utility rests on: prompts that have neither answers nor a reference.
    """
    asked = [i for i, prompt in enumerate(encoded.prompts) if not prompt.answers and not prompt.reference]
    agreed = list(rows)
    for batch in _answered_by_target(model, encoded, target_rows, asked, batch_size):
        first = (teacher.answer_logits(model, batch).argmax(-1) == batch.answer).float()
        for place, share in zip(batch.members, teacher.per_example(first, batch).tolist(), strict=True):
            agreed[asked[place]] = replace(agreed[asked[place]], target_agreement=share)
    return agreed


@torch.inference_mode()
def measure_distance(
    model: nn.Module,
    target: nn.Module,
    encoded: EncodedSet,
    rows: list[Completion],
    target_rows: Sequence[Completion],
    batch_size: int,
) -> list[Completion]:
    """`rows` with the NLL of the target's answers and the KL divergence from the target on them, in nats per token.

    Two passes over all prompts that the target answered: asked for by name (`target_kl`), not as a matter of course.
    """
    asked = [i for i, theirs in enumerate(target_rows) if theirs.token_ids]
    measured = list(rows)
    for batch in _answered_by_target(model, encoded, target_rows, asked, batch_size):
        ours = teacher.answer_logits(model, batch).log_softmax(-1)
        theirs = teacher.answer_logits(target, batch).log_softmax(-1)
        nll = -ours.gather(1, batch.answer.unsqueeze(1)).squeeze(1)
        kl = (theirs.exp() * (theirs - ours)).sum(-1)
        columns = [teacher.per_example(values, batch).tolist() for values in (nll, kl)]
        for place, one, two in zip(batch.members, *columns, strict=True):
            measured[asked[place]] = replace(measured[asked[place]], target_nll=one, target_kl=max(two, 0.0))
    return measured


def _answered_by_target(
    model: nn.Module, encoded: EncodedSet, target_rows: Sequence[Completion], asked: Sequence[int], batch_size: int
) -> Iterator[teacher.Batch]:
    """The prompts numbered `asked`, each with the target's answer."""
    examples = [Example(encoded.tokens[i] + target_rows[i].token_ids, len(encoded.tokens[i])) for i in asked]
    return teacher.batches(examples, batch_size, teacher.device_of(model), teacher.pad_of(model))
