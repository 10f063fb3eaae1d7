"""How a guard is asked and how its reply is read: data files, packaged or the user's own."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cnt_pipeline.errors import InputError
from cnt_pipeline.measures.judges.schema import Asked
from cnt_pipeline.study.block import Block, Count, Share, Text
from cnt_pipeline.study.judges import Label

_FOLDER = Path(__file__).parent / "templates"
_PLACES = re.compile(r"\{(before|prompt|answer)\}")
_SAID = "{said}"


class Rule(Block):
    """A reply in which `pattern` is found (case does not matter) is the verdict `says`."""

    pattern: Text = Field(description="regular expression")
    says: Label = Field(description="what such a reply stands for")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"this is no regular expression ({error})") from None
        return value


class Template(Block):
    """A guard's format. `text` holds {prompt} and {answer}, and {before} where the messages before them go, each
    written as `turns` says; with `special` it writes its own special tokens."""

    kind: Literal["guard", "classifier"] = Field(description="guard: replies in words; classifier: one score a label")
    source: Text = Field(description="where the format is described")
    text: Text = Field(description="what the model is given")
    turns: dict[Literal["user", "assistant"], Text] = Field(
        {}, description="how an earlier message is written, by who said it, with {said} in the place of its words"
    )
    special: bool = Field(True, description="the text has the model's own special tokens; none are added")
    max_new_tokens: Count = Field(8, description="longest reply of a guard, in tokens")
    rules: tuple[Rule, ...] = Field((), description="how a guard's reply is read: the first that matches counts")
    threshold: Annotated[Share | None, Field(description="of a classifier with several labels at once")] = None
    above: Label = Field("harmful", description="verdict where some label's probability exceeds the threshold")
    below: Label = Field("safe", description="verdict where none does")

    @field_validator("text")
    @classmethod
    def _places(cls, value: str) -> str:
        if "answer" not in _PLACES.findall(value):
            raise ValueError("the text of a template needs {answer}, and {prompt} where the model reads it")
        return value

    @model_validator(mode="after")
    def _conversation(self) -> Self:
        if ("before" in _PLACES.findall(self.text)) != bool(self.turns):
            raise ValueError(
                "{before} in the text of a template goes with `turns:`, how the messages there are written"
            )
        if any(_SAID not in turn for turn in self.turns.values()):
            raise ValueError("a turn of a template must hold {said}, which stands for the message")
        return self

    @property
    def labels(self) -> Sequence[Label]:
        """Everything that it can say."""
        return [rule.says for rule in self.rules] if self.kind == "guard" else [self.above, self.below]

    def filled(self, asked: Asked) -> str:
        """The text for one answer. What a prompt or answer holds is never read as a place of its own."""
        turns = [self.turns[role].replace(_SAID, said) for role, said in asked.before if role in self.turns]
        held = {"before": "".join(turns), "prompt": asked.prompt, "answer": asked.whole}
        return _PLACES.sub(lambda place: held[place[1]], self.text)

    def read(self, reply: str) -> Label:
        """What a guard's reply says; a reply that no rule knows is undetermined."""
        return next((rule.says for rule in self.rules if re.search(rule.pattern, reply, re.IGNORECASE)), "undetermined")


def packaged() -> list[str]:
    """Names of the packaged templates."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def template_path(name: str) -> Path:
    """The file of a template: a packaged name, or a YAML file's own path.

    Raises:
        InputError: there is none.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if not path.is_file():
        raise InputError(f"there is no template {name}: choose among {', '.join(packaged())}, or name a .yaml file")
    return path


def read_template(name: str, kind: str) -> Template:
    """A template of the kind that the judge is.

    Raises:
        InputError: there is none, it is not well formed, or it is of the other kind.
    """
    path = template_path(name)
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        template = Template.model_validate(document)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(
            f"{path}:{place}: {fault['msg'].removeprefix('Value error, ')}; correct the template"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read as a template ({' '.join(str(error).split())[:120]})") from None
    if template.kind != kind:
        raise InputError(f"{path} is a template for a {template.kind}, not for a {kind}: change the judge's `kind:`")
    needed, place = (template.rules, "rules") if kind == "guard" else (template.threshold is not None, "threshold")
    if not needed:
        raise InputError(f"{path}: a template for a {kind} needs `{place}:`; add it")
    return template
