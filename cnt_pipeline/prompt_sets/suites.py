"""The items of one part of a suite: read, framed by the part's template, without what the study has read before."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets.adapters import item_of, read_part
from cnt_pipeline.prompt_sets.build import take_by_lot
from cnt_pipeline.prompt_sets.items import Item, item_id
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.study.schema import PromptSource
from cnt_pipeline.study.suites import PLACE


@dataclass(frozen=True)
class Gathered:
    """A part's items, and how many were left out because scoring, search or a recipe reads them."""

    items: list[Item]
    left_out: int


def gather(
    source: PromptSource | None,
    own: Sequence[Prompt],
    adapter: str,
    template: str | None,
    take: int | None,
    seed: int,
    read: Collection[str],
    place: str,
) -> Gathered:
    """The items of `source`, or of the study's `own` test prompts, without those whose plain prompt is in `read`.

    Of `take` items it is drawn by lot which, as in every prompt set.

    Raises:
        InputError: a source that cannot be used, or nothing is left; the message names the study's key `place`.
    """
    items = [item_of(prompt) for prompt in own] if source is None else read_part(source, adapter, place)
    unread = [item for item in items if item.origin not in read]
    if not unread:
        raise InputError(
            f"{place}: scoring, selection or a recipe reads every prompt of this part, so that nothing is left to ask; "
            "give it another source"
        )
    kept = take_by_lot(unread, min(take or len(unread), source.take or len(unread)) if source else take, seed)
    framed = [_framed(item, template) for item in kept] if template else kept
    return Gathered(framed, len(items) - len(unread))


def _framed(item: Item, template: str) -> Item:
    """The last message in the template's frame."""
    *before, (role, text) = item.messages
    messages = (*before, (role, template.replace(PLACE, text)))
    return replace(item, id=item_id(messages, item.prefix, item.choices), messages=messages)
