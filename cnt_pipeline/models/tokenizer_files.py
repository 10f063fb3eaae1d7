"""What two tokenizers must share so that their models read and write the same tokens, from files alone.

Digests are of meaning, not of bytes: key order, padding and truncation state, and the two spellings of merges
in tokenizer.json do not matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnt_pipeline.errors import InputError
from cnt_pipeline.models.architecture_table import read_json

SETTINGS = (
    "add_bos_token", "add_eos_token", "add_prefix_space", "bos_token", "eos_token", "unk_token",
    "clean_up_tokenization_spaces", "split_special_tokens",
)  # fmt: skip
RAW_FILES = (("tokenizer.model",), ("spiece.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
_RUNTIME_SECTIONS = ("truncation", "padding", "version")


@dataclass(frozen=True)
class TokenizerIdentity:
    """A tokenizer as its files define it.

    `sections`: digest by part (vocabulary, merges, added_tokens, normalizer ...). `settings`: keys of
    tokenizer_config.json that change token ids or decoded text. `template`: digest of the chat template(s),
    None without one. `largest_id`: the highest token id, None when the files are not JSON.
    """

    source: str
    sections: Mapping[str, str]
    tokens: Mapping[str, int]
    settings: Mapping[str, Any]
    template: str | None

    @property
    def digest(self) -> str:
        """Of everything but the chat template."""
        return _digest([self.source, dict(self.sections), dict(self.settings)])

    @property
    def largest_id(self) -> int | None:
        return max(self.tokens.values(), default=None)


def read_tokenizer(folder: Path) -> TokenizerIdentity:
    """The tokenizer and chat template of a model folder; raises `InputError` when absent or unreadable."""
    config = read_json(folder / "tokenizer_config.json") or {}
    content = read_json(folder / "tokenizer.json")
    if content is not None:
        try:
            sections, tokens = _sections(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"{folder}/tokenizer.json is no tokenizer ({type(error).__name__}: {error}): fetch it again"
            ) from None
        source = "tokenizer.json"
    else:
        found = next((names for names in RAW_FILES if all((folder / n).is_file() for n in names)), None)
        if found is None:
            raise InputError(f"{folder} holds no tokenizer: copy tokenizer.json and tokenizer_config.json into it")
        source, tokens = " + ".join(found), {}
        sections = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in found}
    special = {**(read_json(folder / "special_tokens_map.json") or {}), **config}
    settings = {key: _plain(special[key]) for key in SETTINGS if special.get(key) not in (None, False)}
    return TokenizerIdentity(source, sections, tokens, settings, _template_digest(folder, config))


def token_differences(
    target: TokenizerIdentity, donor: TokenizerIdentity
) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Rows (what, target, donor) that forbid an exchange; notes on settings that only one of them states."""
    if target.source != donor.source:
        return [("tokenizer file", target.source, donor.source)], []
    rows: list[tuple[str, str, str]] = []
    notes: list[str] = []
    for section in sorted({*target.sections, *donor.sections}):
        one, other = target.sections.get(section), donor.sections.get(section)
        if one != other and section in ("vocabulary", "added_tokens") and target.tokens != donor.tokens:
            ours, theirs = target.tokens.items(), donor.tokens.items()
            rows.append((f"tokenizer {section}", _some(ours - theirs), _some(theirs - ours)))
        elif one != other:
            rows.append((f"tokenizer {section}", short(one), short(other)))
    for key in sorted({*target.settings, *donor.settings}):
        one, other = target.settings.get(key), donor.settings.get(key)
        if one is None or other is None:
            holder = "donor" if one is None else "target"
            notes.append(f"only the {holder}'s tokenizer_config.json sets {key}")
        elif one != other:
            rows.append((f"tokenizer setting {key}", repr(one), repr(other)))
    return rows, notes


def short(digest: str | None) -> str:
    """The first digits of a digest, for people."""
    return digest[:12] if digest else "none"


def _some(tokens: Set[tuple[str, int]]) -> str:
    entries = sorted(tokens, key=lambda entry: entry[1])
    shown = ", ".join(f"{token!r}={number}" for token, number in entries[:3])
    return f"{shown}{f' and {len(entries) - 3} more' if len(entries) > 3 else ''}" or "no others"


def _sections(content: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, int]]:
    parts = {key: value for key, value in content.items() if key not in _RUNTIME_SECTIONS}
    model = {key: value for key, value in parts.pop("model").items() if value not in (None, False)}
    vocabulary = model.pop("vocab")
    if isinstance(vocabulary, list):
        tokens = {str(entry[0]): i for i, entry in enumerate(vocabulary)}
    else:
        tokens = {str(token): int(i) for token, i in vocabulary.items()}
    merges = [m.split(" ") if isinstance(m, str) else m for m in model.pop("merges", ())]
    added = sorted(parts.pop("added_tokens", None) or (), key=lambda token: int(token["id"]))
    tokens |= {str(token["content"]): int(token["id"]) for token in added}
    sections = {"vocabulary": _digest(vocabulary), "merges": _digest(merges), "added_tokens": _digest(added)}
    sections |= {"model": _digest(model)}
    sections |= {key: _digest(value) for key, value in sorted(parts.items()) if value is not None}
    return sections, tokens


def _plain(value: Any) -> Any:
    """A special token is a string, or a mapping with flags: the text is what counts."""
    return value.get("content", value) if isinstance(value, dict) else value


def _template_digest(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Of the template transformers would use: chat_template.jinja before the one in tokenizer_config.json."""
    path = folder / "chat_template.jinja"
    template: Any = config.get("chat_template") or (read_json(folder / "chat_template.json") or {}).get("chat_template")
    if path.is_file():
        try:
            template = path.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}): fetch it again") from None
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = template["default"] if set(template) == {"default"} else template
    for extra in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        template = template if isinstance(template, dict) else {"default": template}
        template[extra.stem] = extra.read_text("utf-8")
    if not template:
        return None
    named = template if isinstance(template, dict) else {"default": template}
    return _digest({name: str(text).replace("\r\n", "\n").strip() for name, text in named.items()})


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
