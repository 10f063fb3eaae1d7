"""The judges of a study: what turns a prompt and its answer into a verdict beside the phrase families."""

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from cnt_pipeline.study.block import Block, Name, Text
from cnt_pipeline.study.models import ModelSource

Label = Literal["harmful", "refused", "safe", "complied", "undetermined"]
"""What a label may stand for; `complied` is harmful on a function prompt and safe on a look-alike."""
_ENTRY = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"


class Judge(Block):
    """One judge. Which keys it needs follows from its kind."""

    name: Name = Field(description="what the judge is called; names its step")
    kind: Literal["phrases", "classifier", "guard", "function"] = Field(
        description="phrases: the packaged phrase families; classifier: a transformers sequence classifier; guard: a "
        "model that writes its verdict; function: a Python function of prompt and answer"
    )
    model: ModelSource | None = Field(None, description="of a classifier or guard: path, hub or package")
    labels: dict[str, Label] = Field(
        {}, description="of a classifier: what each of its labels stands for; by default its template says so"
    )
    reads: Literal["answer", "pair"] = Field(
        "answer", description="of a classifier without a template: the answer alone, or prompt and answer as a pair"
    )
    template: Text | None = Field(
        None, description="name of a packaged template, or a YAML file: how a guard is asked and its reply is read"
    )
    function: Text | None = Field(
        None, description="module:function that takes prompt and answer and returns a verdict, or that and a confidence"
    )

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if "_" in self.name:  # Dagster's names would not tell it from a -
            raise ValueError(f"the judge '{self.name}' has an _ in its name; write a - instead")
        modelled = self.kind in ("classifier", "guard")
        if modelled and self.model is None:
            raise ValueError(f"a judge of kind {self.kind} needs `model:` with path, hub (and revision) or package")
        if self.model is not None and self.model.is_gguf:
            raise ValueError("a judge's model is a folder of safetensors, not a .gguf file")
        if self.kind == "guard" and self.template is None:
            raise ValueError("a judge of kind guard needs `template:`, a packaged name or a YAML file")
        if self.kind == "classifier" and not self.labels and self.template is None:
            raise ValueError(
                "a judge of kind classifier needs `labels:`, what each of its labels stands for, or a `template:`"
            )
        if self.kind == "function" and (self.function is None or not re.match(_ENTRY, self.function)):
            raise ValueError("a judge of kind function needs `function:`, written module:function")
        unread = {
            "model": self.model is not None and not modelled,
            "template": self.template is not None and not modelled,
            "labels": bool(self.labels) and self.kind != "classifier",
            "reads": self.reads != "answer" and (self.kind != "classifier" or self.template is not None),
            "function": self.function is not None and self.kind != "function",
        }
        idle = next((key for key, given in unread.items() if given), None)
        if idle is not None:
            raise ValueError(f"a judge of kind {self.kind} does not read `{idle}:` as it is written; remove it")
        return self

    @property
    def template_file(self) -> Path | None:
        """The template where it is a file of the user's own."""
        named = self.template is not None and self.template.endswith((".yaml", ".yml"))
        return Path(str(self.template)) if named else None
