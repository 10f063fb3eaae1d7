"""`cnt schema` and `cnt methods`: what machines and people look up."""

import json
import sys

from pydantic import BaseModel

from cnt_pipeline.commands.console import out, table
from cnt_pipeline.errors import InputError
from cnt_pipeline.pipeline.documents import DOCUMENTS
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.methods import METHODS


def print_schema(name: str) -> None:
    """Print the JSON Schema of a document, or of the study file.

    Raises:
        InputError: no such document.
    """
    models: dict[str, type[BaseModel]] = {**DOCUMENTS, "study": Study}
    if name not in models:
        raise InputError(f"there is no document '{name}': choose one of {', '.join(models)}")
    schema = models[name].model_json_schema(mode="serialization" if name in DOCUMENTS else "validation")
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    sys.stdout.write(json.dumps(schema, indent=2) + "\n")


def print_methods() -> None:
    """Print the method table."""
    rows = ((r.name, r.effect, r.rule, r.selection, r.edit, r.grade, r.source, r.words) for r in METHODS.values())
    out().print(table(("method", "effect", "score", "selection", "edit", "grade", "source", "what it does"), rows))
    out().print(
        "\ngrades: A read in the source, B reimplemented from it, C known second-hand, I our own reconstruction"
    )
