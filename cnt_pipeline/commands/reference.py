"""`cnt schema` and `cnt methods`: what machines and people look up."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from cnt_pipeline.commands.console import out, table
from cnt_pipeline.errors import InputError
from cnt_pipeline.lineage.documents import LINEAGE_DOCUMENTS
from cnt_pipeline.pipeline.documents import DOCUMENTS
from cnt_pipeline.pipeline.find_steps import caches_of
from cnt_pipeline.reports import words
from cnt_pipeline.study.schema import Method, Study
from cnt_pipeline.transplants.edit.row import EditRow
from cnt_pipeline.transplants.edit.table import EDITS
from cnt_pipeline.transplants.methods import LEARNING, METHODS, READS_SCORING, MethodRow

OWN_PLACE, COMPARED_PLACE = "method.name", "compare.methods"
"""Where a study file names a method."""
CAUSAL_EFFECT = (
    "the causal effect of its neurons, C = E[F(patched) - F(M1)] / E[F(M2) - F(M1)]: M1 is the target, M2 the donor, "
    "and patched the target answering while, at every token of prompt and answer, the activations of these neurons are "
    "those of the donor on the same tokens; F is the study's function metric on test prompts. Both models are held in "
    "memory for it"
)
"""On the cards of methods of which the leaderboard tells it."""
Facts = dict[str, str]
Options = list[tuple[str, str, str, str]]
"""Name, default, permitted values and description."""


def print_schema(name: str) -> None:
    """Print the JSON Schema of a document, or of the study file.

    Raises:
        InputError: no such document.
    """
    documents = {**DOCUMENTS, **LINEAGE_DOCUMENTS}
    models: dict[str, type[BaseModel]] = {**documents, "study": Study}
    if name not in models:
        raise InputError(f"there is no document '{name}': choose one of {', '.join(models)}")
    schema = models[name].model_json_schema(mode="serialization" if name in documents else "validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")


def print_methods() -> None:
    """Print both tables of methods as one: those that a study runs, and those that it compares with its own."""
    columns = ("method", "named in", "scores", "selects", "edits", "needs", "grade", "source")
    own = ((r.name, OWN_PLACE, _scored(r), r.selection, r.edit, "", r.grade, r.source) for r in METHODS.values())
    edits = (
        (r.name, COMPARED_PLACE, r.scores, r.selects, r.edits, ", ".join(r.needs), r.grade, r.source)
        for r in EDITS.values()
    )
    out().print(table(columns, (*own, *edits)))
    grades = "; ".join(f"{grade} {meaning}" for grade, meaning in words.GRADES.items())
    out().print(f"\ngrades: {grades}\n`cnt methods NAME` says more of one of them", markup=False)


def print_method(name: str) -> None:
    """Print the card of one method: what it does, what it reads, what it may be told and how sure we are of it.

    Raises:
        InputError: no such method.
    """
    if name in METHODS:
        facts, options = _own_card(METHODS[name])
    elif name in EDITS:
        facts, options = _edit_card(EDITS[name])
    else:
        raise InputError(f"there is no method '{name}'; choose one of {', '.join((*METHODS, *EDITS))}")
    console = out()
    console.print(name, style="bold", markup=False)
    card = table(("", ""), facts.items())
    card.show_header = False
    console.print(card)
    console.print()
    if options:
        console.print(table(("option", "default", "values", "what it says"), options, title="Options"))
    else:
        console.print("it has no options")


def _scored(row: MethodRow) -> str:
    return row.effect if row.rule == row.effect else f"{row.effect} {row.rule}"


def _own_card(row: MethodRow) -> tuple[Facts, Options]:
    reads = ", ".join(key.partition("/")[2] for key in caches_of(row.effect).values())
    if row.selection in READS_SCORING:
        reads += "; while it selects, the scoring prompts and both models' answers"
    facts = {
        "what it does": row.words,
        "named in": f"{OWN_PLACE} of a study",
        "needs": "target, donor",
        "reads": reads,
        "scores": _scored(row),
        "selects": row.selection,
        "edits": row.edit,
        **_fidelity(row.grade, row.source, ""),
    }
    given = {"effect": row.effect, "selection": row.selection}
    left_out = ("name",) if row.selection in LEARNING else ("name", "learn")
    options = [
        (name, given.get(name, default), values, meaning)
        for name, default, values, meaning in _options(Method)
        if name.split(".")[0] not in left_out
    ]
    return facts, options


def _edit_card(row: EditRow) -> tuple[Facts, Options]:
    facts = {
        "what it does": row.words,
        "named in": f"{COMPARED_PLACE} of a study",
        "needs": ", ".join(("target", "donor", *row.needs)),
        "reads": _read(row),
        "scores": row.scores,
        "selects": row.selects,
        "edits": row.edits,
        **({"also measured": CAUSAL_EFFECT} if row.causal else {}),
        **_fidelity(row.grade, row.source, row.deviations),
    }
    return facts, _options(row.options)


def _read(row: EditRow) -> str:
    """The probes of a row, in words."""
    probes = ", ".join(row.probes) or "weights alone"
    return probes if row.narrowed is None else f"{probes} (as far as its options need them)"


def _fidelity(grade: str, source: str, deviations: str) -> Facts:
    return {
        "grade": f"{grade}: {words.GRADES[grade]}",
        "source": source,
        "known deviations": deviations.strip() or "none noted",
    }


def _options(block: type[BaseModel]) -> Options:
    """The fields of a block, those of a block within it by its name and theirs."""
    schema = block.model_json_schema(by_alias=True)
    parts = schema.get("$defs", {})

    def fields(properties: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
        for name, field in properties.items():
            inner = parts.get(field.get("$ref", "").rpartition("/")[2])
            if inner is not None:
                yield from fields(inner["properties"], f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", _default(field.get("default")), _values(field), field.get("description", "")

    return list(fields(schema.get("properties", {}), ""))


def _default(value: Any) -> str:
    return "-" if value is None else json.dumps(value).strip('"')


def _values(field: Mapping[str, Any]) -> str:
    """What a field may hold, in words."""
    if "anyOf" in field:
        return " or ".join(_values(each) for each in field["anyOf"] if each.get("type") != "null")
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(str(each) for each in field["enum"])
    if field["type"] == "array":
        return f"list of: {_values(field['items'])}"
    limits = [f"{said} {field[key]:g}" for key, said in _LIMITS.items() if key in field]
    return " ".join([_TYPES[field["type"]], ", ".join(limits)]).strip()


_TYPES = {"integer": "whole number", "number": "number", "boolean": "true, false", "string": "text"}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
