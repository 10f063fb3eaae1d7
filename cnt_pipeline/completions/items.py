"""Ask a model a suite's items: greedy answers, likelihoods of choices and references, as far as metrics need them."""

from collections.abc import Collection, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from cnt_pipeline.completions.answers import Answer, Need
from cnt_pipeline.completions.build import EncodedSet, complete, context_length, encode_set, reference_nll
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.errors import InputError
from cnt_pipeline.models.reading import continuation_logliks
from cnt_pipeline.progress import Report, silent
from cnt_pipeline.prompt_sets.adapters import Form
from cnt_pipeline.prompt_sets.items import Item
from cnt_pipeline.study.schema import Generation


def ask(
    model: nn.Module,
    tokenizer: Any,
    items: Sequence[Item],
    settings: Generation,
    form: Form,
    needs: Collection[Need],
    batch_size: int,
    report: Report = silent,
    what: str = "asking",
) -> list[Answer]:
    """An answer per item, in the order given. What `needs` leaves out stays empty.

    Items are worked in the order of their ids, so that which of them share a batch does not hang on the file's order.
    With another batch size the answers, and whatever is a yes or no about them, are the same; log-likelihoods, sums of
    floats that padding takes in another order, lie within 1e-3 nats in float32.

    Raises:
        InputError: an item that does not fit into the model's context.
    """
    order = sorted(range(len(items)), key=lambda i: items[i].id)
    sorted_items = [items[i] for i in order]
    longest = context_length(model)
    if form == "chat":
        encoded = encode_set(tokenizer, sorted_items, settings, longest if "text" in needs else None)
    else:
        encoded = _encode_text(tokenizer, sorted_items)
    _refuse_too_long(encoded, longest)
    if "text" in needs:
        rows = complete(
            model, tokenizer, encoded, settings, batch_size, likelihoods=False, report=report, what=what
        )  # fmt: skip
    else:
        rows = [Completion.without_answer(item.id) for item in sorted_items]
    choices = continuation_logliks(model, encoded.tokens, encoded.choices, batch_size) if "choices" in needs else None
    nll = reference_nll(model, encoded, batch_size) if "reference" in needs else None
    answers = [
        Answer(
            **{
                **{field.name: getattr(row, field.name) for field in fields(Completion)},
                "choice_loglik": choices[i] if choices else (),
                "choice_tokens": tuple(len(choice) for choice in encoded.choices[i]) if choices else (),
                "answer_nll": nll[i] if nll else None,
            }
        )
        for i, row in enumerate(rows)
    ]
    back = dict(zip(order, answers, strict=True))
    return [back[i] for i in range(len(items))]


def _encode_text(tokenizer: Any, items: Sequence[Item]) -> EncodedSet:
    """Plain text behind the token that begins a text, without a chat template.

    Raises:
        InputError: a tokenizer without such a token, or a sentence without tokens.
    """
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise InputError(
            "the tokenizer has no token that begins a text, so that the likelihood of a sentence's first word cannot "
            "be measured; leave out the suite's parts that compare sentences"
        )

    def tokens(text: str) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]) if text else ()

    choices = tuple(tuple(tokens(choice) for choice in item.choices) for item in items)
    for item, listed in zip(items, choices, strict=True):
        if not all(listed):
            raise InputError(f"{_named(item)} has a sentence without tokens in this tokenizer; remove it")
    return EncodedSet(tuple(items), tuple((begin, *tokens(item.text)) for item in items), ((),) * len(items), choices)


def _refuse_too_long(encoded: EncodedSet, longest: int | None) -> None:
    for item, ids, choices in zip(encoded.prompts, encoded.tokens, encoded.choices, strict=True):
        whole = len(ids) + max(map(len, choices), default=0)
        if longest is not None and whole > longest:
            raise InputError(
                f"{_named(item)} has {whole} tokens with its longest choice, and the model's context is {longest}; "
                "shorten or remove it"
            )


def _named(item: Any) -> str:
    return f"item {item.id} ({item.source}, row {item.row + 1})"
