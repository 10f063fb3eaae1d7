"""Build every role's prompt set of a study: read, map, drop repeats, divide by digest, refuse overlaps, write."""

import hashlib
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets import sources
from cnt_pipeline.prompt_sets.schema import Prompt, Role, file_name, prompt_id, roles_of, write_prompts
from cnt_pipeline.study.schema import KINDS, Kind, Prompts, PromptSource, Shares, Split

Asked = TypeVar("Asked", bound=Prompt)


def build(prompts: Prompts, seed: int, folder: Path, taught: Collection[Kind] = ()) -> dict[str, Any]:
    """Write `<split>.<kind>.parquet` for every role into `folder`; returns the number of rows of each.

    Raises:
        InputError: a source that cannot be used, an empty role, or a prompt that appears in two roles.
    """
    sets = materialize(prompts, seed, taught)
    for (split, kind), rows in sets.items():
        write_prompts(rows, folder / file_name(split, kind), split, kind)
    return {"rows": {f"{split}.{kind}": len(rows) for (split, kind), rows in sets.items()}}


def materialize(prompts: Prompts, seed: int, taught: Collection[Kind] = ()) -> dict[Role, list[Prompt]]:
    """The prompts of the nine roles, then of the train role of every kind in `taught`. Errors as in `build`."""
    roles = roles_of(taught)
    sets: dict[Role, list[Prompt]] = {}
    for kind in KINDS:
        splits = [split for split, of in roles if of == kind]
        sharing = [split for split in splits if prompts.shares(split, kind)]
        scoring = prompts.source("score", kind)
        whole = read_parts(scoring, _key("score", kind))
        for split in splits:
            own = prompts.source(split, kind)
            parts: list[tuple[PromptSource, list[Prompt]]] = []
            if split in sharing:
                for source, members in zip(scoring, whole, strict=True):
                    parts.append((source, [p for p in members if _assigned(p, prompts.split, sharing, seed) == split]))
            if split != "score" and own != scoring:
                seen = {prompt.id for _, members in parts for prompt in members}
                parts += zip(own, read_parts(own, _key(split, kind), seen), strict=True)
            members = [prompt for source, found in parts for prompt in take_by_lot(found, source.take, seed)]
            if not members:
                named = " and ".join(sources.describe(source) for source, _ in parts)
                raise InputError(
                    f"{_key(split, kind)}: no prompt is left for this role from {named}; give it "
                    "more rows, or a larger share in `prompts.split`"
                )
            sets[split, kind] = members
    _refuse_overlaps(sets)
    return {role: sets[role] for role in roles}


def read_parts(listed: Sequence[PromptSource], key: str, seen: Collection[str] = ()) -> list[list[Prompt]]:
    """The prompts of every source of a list, without those that an earlier one (or `seen`) holds.

    Raises:
        InputError: a source that cannot be used; the message names the study's key `key`.
    """
    known = set(seen)
    parts = []
    for number, source in enumerate(listed):
        place = f"{key}.{number}" if len(listed) > 1 else key
        parts.append([prompt for prompt in read_prompt_source(source, place) if prompt.id not in known])
        known |= {prompt.id for prompt in parts[-1]}
    return parts


def divided(
    listed: Sequence[PromptSource],
    whole: Sequence[Sequence[Prompt]],
    split: Split,
    sharing: Sequence[Split],
    shares: Shares,
    seed: int,
) -> list[Prompt]:
    """The part `split` of sources that serve the roles in `sharing`; `whole` holds the prompts of each source."""
    return [
        prompt
        for source, members in zip(listed, whole, strict=True)
        for prompt in take_by_lot(
            [p for p in members if _assigned(p, shares, sharing, seed) == split], source.take, seed
        )
    ]


def read_prompt_source(source: PromptSource, key: str) -> list[Prompt]:
    """Prompts of one source in file order, each once."""
    rows = sources.read_rows(source)
    if not rows:
        raise InputError(f"{key}: {sources.describe(source)} holds no rows; give a source that has prompts")
    found: dict[str, Prompt] = {}
    for number, row in enumerate(rows):
        prompt = _prompt(row, number, source, key)
        found.setdefault(prompt.id, prompt)
    return list(found.values())


def _prompt(row: sources.Row, number: int, source: PromptSource, key: str) -> Prompt:
    columns = source.columns
    place = f"{key}: row {number + 1} of {sources.describe(source)}"
    if columns.messages is not None:
        messages = _messages(sources.value_of(row, columns.messages), place)
    else:
        text = sources.value_of(row, columns.text)
        if not sources.has(row, columns.text):
            raise InputError(
                f"{place} has no column '{columns.text}' (it has {', '.join(map(str, row))}); "
                "map it with `columns: {text: ...}`"
            )
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{place} has an empty or non-text '{columns.text}'; fill or remove the row")
        messages = (("user", text),)
    prefix = sources.value_of(row, columns.prefix) or ""
    if not isinstance(prefix, str):
        raise InputError(f"{place} has a '{columns.prefix}' that is not text; correct it")
    answers = _texts(sources.value_of(row, columns.answers), place, columns.answers)
    reference = sources.value_of(row, columns.reference) or ""
    if not isinstance(reference, str):
        raise InputError(f"{place} has a '{columns.reference}' that is not text; correct it, or map another column")
    listed = sources.value_of(row, columns.choices)
    if columns.choices_separator is not None and isinstance(listed, str):
        listed = [choice.strip() for choice in listed.split(columns.choices_separator) if choice.strip()]
    choices = _texts(listed, place, columns.choices)
    if not all(choices):
        raise InputError(f"{place} has an empty choice in '{columns.choices}', which would always win; remove it")
    _refuse_half_characters((*(content for _, content in messages), prefix, reference, *answers, *choices), place)
    return Prompt(
        id=prompt_id(messages, prefix),
        messages=messages,
        prefix=prefix,
        answers=tuple(answer for answer in answers if answer),
        reference=reference,
        choices=choices,
        source=sources.label(source),
        row=number,
    )


def _messages(value: Any, place: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{place} has no conversation; `columns.messages` must name a list of {{role, content}}")
    turns = []
    for turn in value:
        if (
            not isinstance(turn, dict)
            or not isinstance(turn.get("role"), str)
            or not isinstance(turn.get("content"), str)
        ):
            raise InputError(f"{place} has a message without text `role` and `content`; correct it")
        turns.append((turn["role"], turn["content"]))
    if turns[-1][0] != "user":
        raise InputError(f"{place} ends with a message of '{turns[-1][0]}'; a prompt must end with the user's message")
    return tuple(turns)


def _texts(value: Any, place: str, column: str) -> tuple[str, ...]:
    """The texts of a column, "" for what is empty inside a list."""
    if _is_blank(value):
        return ()
    values = value if isinstance(value, list) else [value]
    if not all(item is None or isinstance(item, str | int | float) for item in values):
        raise InputError(f"{place} has a '{column}' that is neither text nor a list of texts; correct it")
    return tuple("" if _is_blank(item) else str(item) for item in values)


def _is_blank(value: Any) -> bool:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return missing or (isinstance(value, str) and not value.strip())


def _refuse_half_characters(texts: tuple[str, ...], place: str) -> None:
    """JSON can write half of a surrogate pair, which no file and no tokenizer can hold."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise InputError(f"{place} holds half of a surrogate pair, which is no character; correct it") from None


def _assigned(prompt: Prompt, shares: Shares, sharing: Sequence[Split], seed: int) -> Split:
    """The role of a prompt whose source serves the roles in `sharing`: a pure function of its digest and the seed."""
    total = sum(getattr(shares, split) for split in sharing)
    mark = _lot(prompt, f"split{seed}") * total
    for split in sharing:
        mark -= getattr(shares, split)
        if mark < 0:
            return split
    return sharing[-1]


def take_by_lot(prompts: list[Asked], count: int | None, seed: int) -> list[Asked]:
    """`count` prompts by lot (their digests decide), in file order: a row added elsewhere moves few others."""
    if count is None or count >= len(prompts):
        return prompts
    chosen = set(sorted((_lot(p, f"take{seed}"), p.id) for p in prompts)[:count])
    return [p for p in prompts if (_lot(p, f"take{seed}"), p.id) in chosen]


def _lot(prompt: Prompt, purpose: str) -> float:
    """A number in [0, 1) drawn by the prompt's digest."""
    digest = hashlib.sha256(f"{purpose}:{prompt.id}".encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _refuse_overlaps(sets: dict[Role, list[Prompt]]) -> None:
    owner: dict[str, Role] = {}
    clashes: dict[tuple[Role, Role], list[str]] = {}
    for role, prompts in sets.items():
        for prompt in prompts:
            first = owner.setdefault(prompt.id, role)
            if first != role:
                clashes.setdefault((first, role), []).append(prompt.id)
    if clashes:
        (first, second), ids = next(iter(clashes.items()))
        shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
        count = "a prompt" if len(ids) == 1 else f"{len(ids)} prompts"
        raise InputError(
            f"{_key(*first)} and {_key(*second)} share {count} (ids {shown}): a prompt may serve one role only; remove "
            "it from one of the two sources"
        )


def _key(split: Split, kind: Kind) -> str:
    return f"prompts.{kind}" if split == "score" else f"prompts.{split}.{kind}"
