"""Judges that are models: a sequence classifier, and a guard that writes its verdict."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cnt_pipeline.errors import InputError
from cnt_pipeline.measures.judges.schema import Asked, Judgement, Verdict, told_by, verdict_of
from cnt_pipeline.measures.judges.template import Template
from cnt_pipeline.models.generate import greedy, stop_tokens
from cnt_pipeline.models.load import Dtype, load_model, load_tokenizer
from cnt_pipeline.models.teacher import device_of
from cnt_pipeline.study.judges import Label

_LEAST_LEAD = 1e-3
"""Lead of the likeliest label below which a classifier has not decided; rounding within a batch is far smaller."""


class ClassifierJudge:
    """A transformers sequence classifier whose labels stand for verdicts.

    With a template several labels hold at once: the verdict is whether some probability exceeds the threshold. A text
    that does not fit into the model's context is undetermined: what was cut off might have been what counts.

    Raises:
        InputError: the model cannot be loaded, or its labels are not those that `labels` names.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, Label],
        reads: str = "answer",
        template: Template | None = None,
        dtype: Dtype = "float32",
        device: str = "cpu",
    ) -> None:
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, dtype=dtype, device=device, head="classes")
        # Models that read the last token's logits find it by the padding.
        self._model.config.pad_token_id = self._tokenizer.pad_token_id
        self._template, self._reads = template, reads
        own: dict[int, str] = self._model.config.id2label
        if template is None and set(labels) != set(own.values()):
            raise InputError(
                f"the classifier in {folder} has the labels {', '.join(own.values())}, and `labels:` names "
                f"{', '.join(labels)}: say of each of the former what it stands for"
            )
        self._labels: list[Label] = [] if template else [labels[own[number]] for number in range(len(own))]
        self.tells: frozenset[Verdict] = told_by(list(template.labels) if template else self._labels)

    @torch.inference_mode()
    def judge(self, asked: Sequence[Asked], batch_size: int) -> list[Judgement]:
        tokens = [self._encode(one) for one in asked]
        longest = _context(self._model, self._tokenizer)
        found = [Judgement("undetermined")] * len(asked)
        fits = [number for number, ids in enumerate(tokens) if 0 < len(ids["input_ids"]) <= longest]
        for members in _alike([tokens[number]["input_ids"] for number in fits], batch_size):
            rows = [fits[member] for member in members]
            names = tokens[rows[0]].keys()
            given = {name: torch.tensor([tokens[row][name] for row in rows]) for name in names}
            logits = self._model(**{name: ids.to(device_of(self._model)) for name, ids in given.items()}).logits
            for row, scores in zip(rows, logits.float().cpu(), strict=True):
                found[row] = self._read(scores, asked[row])
        return found

    def _encode(self, asked: Asked) -> Mapping[str, list[int]]:
        if self._template is not None:
            text = self._template.filled(_defused(asked, self._tokenizer))
            encoded = self._tokenizer(text, add_special_tokens=not self._template.special, verbose=False)
        elif self._reads == "pair":
            encoded = self._tokenizer(asked.prompt, asked.whole, verbose=False)
        else:
            encoded = self._tokenizer(asked.whole, verbose=False)
        return dict(encoded)

    def _read(self, scores: torch.Tensor, asked: Asked) -> Judgement:
        if not bool(torch.isfinite(scores).all()):
            return Judgement("undetermined")
        if self._template is not None:
            highest = float(scores.sigmoid().max())
            threshold = self._template.threshold or 0.0
            label = self._template.above if highest > threshold else self._template.below
            return Judgement(verdict_of(label, asked.kind), highest if highest > threshold else 1 - highest)
        chances = scores.double().softmax(-1)
        # Labels that stand for the same verdict are one.
        by_verdict: dict[Verdict, float] = {}
        for label, chance in zip(self._labels, chances.tolist(), strict=True):
            verdict = verdict_of(label, asked.kind)
            by_verdict[verdict] = by_verdict.get(verdict, 0.0) + chance
        first, *others = sorted(by_verdict.items(), key=lambda item: -item[1])
        if others and first[1] - others[0][1] < _LEAST_LEAD:
            return Judgement("undetermined", first[1])
        return Judgement(*first)


class GuardJudge:
    """A language model that is asked by a template and writes its verdict; the reply is read by the template's rules.

    Raises:
        InputError: the model cannot be loaded.
    """

    def __init__(self, folder: Path, template: Template, dtype: Dtype = "float32", device: str = "cpu") -> None:
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, dtype=dtype, device=device)
        self._template = template
        self.tells: frozenset[Verdict] = told_by(template.labels)

    def judge(self, asked: Sequence[Asked], batch_size: int) -> list[Judgement]:
        template = self._template
        special = not template.special
        texts = [template.filled(_defused(one, self._tokenizer)) for one in asked]
        tokens = [tuple(self._tokenizer(t, add_special_tokens=special, verbose=False)["input_ids"]) for t in texts]
        longest = _context(self._model, self._tokenizer) - template.max_new_tokens
        found = [Judgement("undetermined")] * len(asked)
        fits = [number for number, ids in enumerate(tokens) if 0 < len(ids) <= longest]
        stop = stop_tokens(self._model, self._tokenizer)
        for members in _alike([tokens[number] for number in fits], batch_size):
            rows = [fits[member] for member in members]
            replies = greedy(self._model, [tokens[row] for row in rows], template.max_new_tokens, batch_size, stop)
            for row, reply in zip(rows, replies, strict=True):
                text = self._tokenizer.decode(reply.tokens, skip_special_tokens=True)
                verdict = verdict_of(template.read(text), asked[row].kind)
                found[row] = Judgement(verdict, None if verdict == "undetermined" else math.exp(reply.loglik))
        return found


def _defused(asked: Asked, tokenizer: Any) -> Asked:
    """What is judged without the judge's own control tokens, by which an answer could end the template and go on with a
    verdict of its own."""
    control = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]

    def plain(text: str) -> str:
        for token in control:
            text = text.replace(token, " ")
        return text

    before = tuple((role, plain(said)) for role, said in asked.before)
    return replace(
        asked, prompt=plain(asked.prompt), answer=plain(asked.answer), prefix=plain(asked.prefix), before=before
    )


def _alike(tokens: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Batches of texts of one length: without padding, no text has a part in how another is read."""
    by_length: dict[int, list[int]] = {}
    for number, ids in enumerate(tokens):
        by_length.setdefault(len(ids), []).append(number)
    for _, members in sorted(by_length.items(), reverse=True):
        for begin in range(0, len(members), batch_size):
            yield members[begin : begin + batch_size]


def _context(model: Any, tokenizer: Any) -> int:
    """Longest text in tokens; the tokenizer's limit where it is the smaller one, as places for padding may be counted
    among the model's."""
    places, most = getattr(model.config, "max_position_embeddings", None), int(tokenizer.model_max_length)
    return min(places, most) if isinstance(places, int) else most
