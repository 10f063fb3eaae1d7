"""Read a study file. Every fault is one sentence, `file:key: reason`; relative paths are relative to the study file."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.study.schema import (
    KINDS,
    TRAIN,
    AdapterSource,
    AnyModel,
    Judge,
    LoraSft,
    Models,
    ModelSource,
    Prompts,
    PromptSource,
    Study,
    StudyModel,
)


def load_study(path: Path) -> Study:
    """The study in `path`, with its local paths made absolute.

    Raises:
        StudyError: no such file, not YAML, an unknown key or a value outside its range.
    """
    document = _read_yaml(path)
    try:
        study = Study.model_validate(document)
    except ValidationError as error:
        raise StudyError(_first_fault(path, document, error)) from None
    try:
        study = _absolute(study, path.resolve().parent)
    except RuntimeError as error:
        raise StudyError(f"{path}: a path begins with an unknown user's `~` ({error}); write it out") from None
    study._file = str(path)
    return study


def _read_yaml(path: Path) -> dict[str, Any]:
    if path.is_dir():
        raise StudyError(f"{path}: this is a folder; name the study's YAML file")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyError(f"{path}: no such study file; `cnt init {path}` writes one to edit") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path}: cannot be read as text ({error}); give a UTF-8 YAML file that you may read"
        ) from None
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}" if mark else "the file"
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise StudyError(f"{path}: {place} is not valid YAML ({problem}); correct it") from None
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path}: a value cannot be read ({error}); correct it, or put it in quotes") from None
    if not isinstance(document, dict):
        raise StudyError(f"{path}: a study is a mapping of keys such as `study:` and `models:`; this file holds none")
    return document


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key written twice, where plain YAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        keys = [self.construct_object(key, deep=True) for key in written]
        for position, key in enumerate(keys):
            if key in keys[:position]:
                raise yaml.MarkedYAMLError(
                    problem=f"the key '{key}' is written twice", problem_mark=written[position].start_mark
                )
        return super().construct_mapping(node, deep)


_PLAIN_WORDS = {
    "model_type": "must be a block of keys",
    "dict_type": "must be a block of keys",
    "tuple_type": "must be a list, written [a, b]",
    "string_type": "must be text; put it in quotes",
    "path_type": "must be a path",
    "string_pattern_mismatch": "must be lower-case letters, digits, - and _, at most 64, and not begin with - or _",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
}
"""Reasons in a study's words where pydantic's are Python's."""


def _first_fault(path: Path, document: dict[str, Any], error: ValidationError) -> str:
    faults = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    fault = faults[0]
    key = ".".join(_written(document, fault["loc"])) or "study"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(fault["loc"][:-1])
        close = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"known keys here: {', '.join(known)}"
        reason = f"unknown key; {hint}"
    elif fault["type"] == "missing":
        reason = "this key is required; add it"
    else:
        message = _PLAIN_WORDS.get(fault["type"], fault["msg"].removeprefix("Value error, "))
        held = repr(fault["input"])
        held = held if len(held) <= _LONGEST_SHOWN else f"{held[:_LONGEST_SHOWN]} ..."
        reason = message if fault["type"] == "value_error" else f"{message} (it holds {held})"
    return f"{path}:{key}: {reason}"


_LONGEST_SHOWN = 80


def _written(document: Any, location: tuple[int | str, ...]) -> Iterator[str]:
    """The parts of a fault's location that a user can find in the file, without pydantic's names of alternatives
    and the place of a value that was written where a list is accepted."""
    for part in location:
        if _is_alternative(part) or (isinstance(part, int) and isinstance(document, dict)):
            continue
        if not isinstance(document, dict | list) or (isinstance(document, list) and not isinstance(part, int)):
            return
        yield str(part)
        inside = part in document if isinstance(document, dict) else True
        document = document[part] if inside else None  # type: ignore[index]


def _is_alternative(part: int | str) -> bool:
    """Whether a part of a location names the alternative that pydantic chose, e.g. `<lora_sft>`."""
    return isinstance(part, str) and part.startswith("<")


_TAGGED: dict[str, type[BaseModel]] = {"<lora_sft>": LoraSft, "<adapter>": AdapterSource}
"""Alternatives to the first block of a key."""


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Keys that the block at `location` accepts."""
    model: type[BaseModel] = Study
    for place, part in enumerate(location):
        if _is_alternative(part) or isinstance(part, int):
            continue
        field = next((f for n, f in model.model_fields.items() if part in (n, f.alias)), None)
        annotation = AnyModel if field is None and model is Models else field and field.annotation
        blocks = list(_blocks_of(annotation))
        if not blocks:
            return []
        tagged = (block for tag, block in _TAGGED.items() if block in blocks and tag in location[place + 1 :])
        model = next(tagged, blocks[0])
    return [field.alias or name for name, field in model.model_fields.items()]


def _blocks_of(annotation: Any) -> Iterator[type[BaseModel]]:
    """The blocks that an annotation names, through unions, lists and what is annotated."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _blocks_of(inner)


def _absolute(study: Study, folder: Path) -> Study:
    def plain(source: ModelSource) -> ModelSource:
        return source if source.path is None else source.model_copy(update={"path": folder / source.path.expanduser()})

    def model(source: StudyModel) -> StudyModel:
        if isinstance(source, AdapterSource):
            return source.model_copy(update={"adapter": folder / source.adapter.expanduser()})
        return source if isinstance(source, LoraSft) else plain(source)

    def judge(block: Judge) -> Judge:
        template = block.template_file and str(folder / block.template_file.expanduser())
        return block.model_copy(
            update={"model": block.model and plain(block.model), "template": template or block.template}
        )

    def prompt(source: PromptSource | str) -> PromptSource | str:
        if isinstance(source, str) or source.file is None or source.package is not None:
            return source
        return source.model_copy(update={"file": str(folder / Path(source.file).expanduser())})

    def kinds(block: Any) -> Any:
        written = {kind: getattr(block, kind) for kind in KINDS}
        return block.model_copy(
            update={kind: tuple(map(prompt, sources)) for kind, sources in written.items() if sources is not None}
        )

    prompts: Prompts = kinds(study.prompts)
    prompts = prompts.model_copy(
        update={split: kinds(getattr(study.prompts, split)) for split in ("selection", "test", TRAIN)}
    )
    dimensions = tuple(
        each.model_copy(update={"prompts": tuple(map(prompt, each.prompts))}) for each in study.compare.dimensions
    )
    compare = study.compare.model_copy(update={"dimensions": dimensions})
    suites = tuple(
        each.model_copy(
            update={
                "file": each.file and str(folder / Path(each.file).expanduser()),
                "source": prompt(each.source) if each.source else None,
                "sources": {part: prompt(source) for part, source in each.sources.items()},
            }
        )
        for each in study.suites
    )
    models = study.models.model_copy(update={name: model(source) for name, source in study.models.named().items()})
    judges = tuple(map(judge, study.judges))
    return study.model_copy(
        update={"models": models, "prompts": prompts, "compare": compare, "suites": suites, "judges": judges}
    )
