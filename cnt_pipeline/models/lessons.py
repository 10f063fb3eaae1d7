"""What a fine-tuning recipe teaches, in tokens: prompts through the chat template, answers with their closing token."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.generate import encode_prompt, greedy, stop_tokens
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.progress import Report
from cnt_pipeline.study.schema import Kind, Lesson, LoraSft

GENERATED_AT_ONCE = 32


class Prompt(Protocol):
    """What a lesson needs to know of a prompt (`cnt_pipeline.prompt_sets.schema.Prompt`)."""

    @property
    def messages(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def prefix(self) -> str: ...
    @property
    def first_answer(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def row(self) -> int: ...


@dataclass(frozen=True)
class Taught:
    """The examples of one lesson and its weight in every batch."""

    examples: tuple[Example, ...]
    share: float


def encode_lessons(
    recipe: LoraSft,
    prompts: Mapping[Kind, Sequence[Prompt]],
    tokenizer: Any,
    base: Callable[[], nn.Module],
    system: str | None,
    longest: int | None,
    report: Report,
) -> list[Taught]:
    """The examples of every lesson of `recipe`, in the order of the prompts.

    `base` gives the model that answers where the answers are its `own`; it is asked once for every prompt. Answers are
    cut after `max_tokens`, the lesson's or else the recipe's; one that is not cut ends with the closing token.
    `longest` is the model's context.

    Raises:
        InputError: a prompt without the reference answer that it is to be taught, or too long for the context.
    """
    encoded = {
        kind: [encode_prompt(tokenizer, prompt.messages, prompt.prefix, system) for prompt in prompts[kind]]
        for kind in recipe.kinds
    }
    most = max(_longest(recipe, lesson) for lesson in recipe.lessons)
    for kind, rows in encoded.items():
        for prompt, tokens in zip(prompts[kind], rows, strict=True):
            if longest is not None and len(tokens) + most > longest:
                raise InputError(
                    f"the prompt in row {prompt.row + 1} of {prompt.source} has {len(tokens)} tokens, and with an "
                    f"answer of {most} it exceeds the model's context of {longest}; shorten it or lower "
                    "`max_tokens`"
                )
    own_kinds = dict.fromkeys(kind for lesson in recipe.lessons if lesson.answers == "own" for kind in lesson.prompts)
    own = _own_answers(recipe, {kind: encoded[kind] for kind in own_kinds}, tokenizer, base, report)
    taught = []
    for number, lesson in enumerate(recipe.lessons):
        rows = [tokens for kind in lesson.prompts for tokens in encoded[kind]]
        if lesson.answers == "own":
            answers = [answer[: _longest(recipe, lesson)] for kind in lesson.prompts for answer in own[kind]]
        else:
            texts = _texts(lesson, number, prompts)
            answers = [_closed(tokenizer, text, _longest(recipe, lesson)) for text in texts]
        examples = tuple(Example(tokens + answer, len(tokens)) for tokens, answer in zip(rows, answers, strict=True))
        taught.append(Taught(tuple(example for example in examples if example.answer_length), lesson.share))
    return taught


def _own_answers(
    recipe: LoraSft,
    encoded: Mapping[Kind, list[tuple[int, ...]]],
    tokenizer: Any,
    base: Callable[[], nn.Module],
    report: Report,
) -> dict[Kind, list[tuple[int, ...]]]:
    """What the base says to each prompt, greedily; without the closing token where it was cut."""
    if not encoded:
        return {}
    model, total, done = base(), sum(map(len, encoded.values())), 0
    own = [lesson for lesson in recipe.lessons if lesson.answers == "own"]
    most = {kind: max(_longest(recipe, lesson) for lesson in own if kind in lesson.prompts) for kind in encoded}

    def progress(count: int) -> None:
        nonlocal done
        done += count
        report("the base answers the lessons' prompts", done, total)

    report("the base answers the lessons' prompts", 0, total)
    stop = stop_tokens(model, tokenizer)
    return {
        kind: [answer.tokens for answer in greedy(model, rows, most[kind], GENERATED_AT_ONCE, stop, progress)]
        for kind, rows in encoded.items()
    }


def _longest(recipe: LoraSft, lesson: Lesson) -> int:
    return lesson.max_tokens or recipe.max_tokens


def _texts(lesson: Lesson, number: int, prompts: Mapping[Kind, Sequence[Prompt]]) -> Iterator[str]:
    """The answer to every prompt of a lesson: its own reference, or the given texts in turn."""
    for place, prompt in enumerate(prompt for kind in lesson.prompts for prompt in prompts[kind]):
        if lesson.answers != "reference":
            yield lesson.answers[place % len(lesson.answers)]
        elif prompt.first_answer:
            yield prompt.first_answer.removeprefix(prompt.prefix)
        else:
            raise InputError(
                f"lesson {number + 1} teaches reference answers, but row {prompt.row + 1} of {prompt.source} has none; "
                "map them with `columns: {reference: ...}`, or write `answers: own` or a list of texts"
            )


def _closed(tokenizer: Any, text: str, longest: int) -> tuple[int, ...]:
    """Token ids of a text and the closing token, cut after `longest`."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.eos_token_id
    return tuple([*ids, *([] if end is None else [end])][:longest])
