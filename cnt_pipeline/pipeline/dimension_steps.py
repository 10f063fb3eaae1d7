"""The graph's part that works through safety dimensions: new neurons for each, and all earlier ones asked again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from cnt_pipeline import measures
from cnt_pipeline.measures.metrics import versions
from cnt_pipeline.pipeline.find_steps import probe_step, without_places
from cnt_pipeline.pipeline.step import Input, Step, model_input, pair, prompts_of, said_by, speech
from cnt_pipeline.study.schema import TRAIN, Kind, Study
from cnt_pipeline.transplants.edit.table import ResolvedEdit

DIMENSIONS = "evaluations/dimensions"
DIMENSION = "prompt_sets/dimension_"
TAUGHT, EARLIER = "taught", "earlier/"
"""Names of inputs of a dimension's prompts: the lessons, and the start of those of earlier dimensions."""
MASKS = "masks.safetensors"
"""The rows that a dimension edited: bool `[out]` by tensor."""
KINDS: tuple[Kind, ...] = ("function",)
"""A dimension has harmful prompts alone; benign ones are those of the study."""


def dimension_steps(study: Study, edits: Sequence[ResolvedEdit]) -> list[Step]:
    """The steps of every dimension for every method that works through them, and their table; none without both.

    Dimension k reads nothing of those after it, so that one added at the end leaves the others as they are.
    """
    continual, names = _continual(edits), dimension_names(study)
    if not continual or not names:
        return []
    steps = [step for number in range(len(names)) for step in _dimension(study, continual, number)]
    for edit in continual:
        for number in range(len(names)):
            steps += _edited(study, edit, names[: number + 1])
    return [*steps, _table(study, continual)]


def dimension_names(study: Study) -> list[str]:
    """The study's safety dimensions, in order."""
    return [dimension.name for dimension in study.compare.dimensions]


def checkpoint_key(edit: str, dimension: str) -> str:
    """The step that wrote an entry's checkpoint after a dimension."""
    return f"transplants/compared_{edit}/{dimension}"


def after(edit: str, dimension: str) -> str:
    """What an entry's checkpoint after a dimension is called among subjects."""
    return f"compared_{edit}_after_{dimension}"


def asked(subject: str, dimension: str) -> str:
    """What a subject is called that was asked a dimension's prompts."""
    return f"{subject}_on_{dimension}"


def prompts_on(dimension: str) -> str:
    """What a dimension's test prompts are called among the inputs of the leaderboard's page."""
    return f"prompts_on_{dimension}"


def part_of(dimension: str, split: str) -> Input:
    """One part of a dimension's prompts."""
    return Input(f"{DIMENSION}{dimension}", tuple(f"{split}.{kind}.parquet" for kind in KINDS))


def _dimension(study: Study, edits: Sequence[ResolvedEdit], number: int) -> Iterator[Step]:
    """A dimension's prompts, what target and donor say to them, and the probes on the donor's answers."""
    dimension, shares = study.compare.dimensions[number], study.prompts.split
    name, taught = dimension.name, study.models.taught_kinds()
    earlier = {f"{EARLIER}{other}": Input(f"{DIMENSION}{other}") for other in dimension_names(study)[:number]}
    yield Step(
        f"{DIMENSION}{name}",
        "prompt_sets.dimension",
        {
            "prompts": without_places(
                [source.model_dump(mode="json", exclude_defaults=True) for source in dimension.prompts]
            ),
            "split": {"score": shares.score, "test": shares.test},
            "seed": study.seed,
        },
        {**earlier, **({TAUGHT: prompts_of(TRAIN, *taught)} if taught else {})},
        external=dimension.prompts,
    )
    for which, split in (("donor", "score"), ("target", "test"), ("donor", "test")):
        models = pair() if which == "donor" else {"target": model_input("target")}
        yield Step(
            f"completions/{asked(which, name)}/{split}",
            f"completions.of_{which}",
            _speech(study),
            {**models, "prompts": part_of(name, split)},
            after=("models/pair",),
        )
    for probe in dict.fromkeys(probe for edit in edits for probe in edit.probes):
        measure, model = probe.split("/")
        taken = probe_step(study, measure, model)
        yield replace(
            taken,
            key=_probe_key(probe, name),
            slice={**taken.slice, "kinds": KINDS},
            inputs={
                "model": model_input(model),
                "prompts": part_of(name, "score"),
                "completions": said_by(asked(model, name), "score", *KINDS),
            },
        )


def _speech(study: Study) -> dict[str, Any]:
    return {**speech(study), "kinds": KINDS}


def _probe_key(probe: str, dimension: str) -> str:
    measure, model = probe.split("/")
    return f"activation_caches/{asked(measure, dimension)}/{model}"


def _edited(study: Study, edit: ResolvedEdit, names: Sequence[str]) -> Iterator[Step]:
    """An entry's checkpoint after the last of `names`, and what it says to the test prompts of all of them."""
    *earlier, name = names
    before = {"checkpoint": Input(checkpoint_key(edit.key, earlier[-1]), ("model/*",))} if earlier else {}
    key = checkpoint_key(edit.key, name)
    yield Step(
        key,
        "transplants.edit_dimension",
        edit.slice,
        {
            **pair(),
            **{model: model_input(model) for model in edit.row.needs},
            **{probe: Input(f"activation_caches/{probe}") for probe in edit.probes},
            **{f"{probe}/{kind}": Input(_probe_key(probe, name)) for probe in edit.probes for kind in KINDS},
            **before,
            **{f"masks/{other}": Input(checkpoint_key(edit.key, other), (MASKS,)) for other in earlier},
        },
        after=("models/pair",),
    )
    for other in names:
        yield Step(
            f"completions/{asked(after(edit.key, name), other)}/test",
            "completions.of_transplant",
            _speech(study),
            {
                "target": model_input("target"),
                "checkpoint": Input(key, ("model/*",)),
                "prompts": part_of(other, "test"),
            },
        )


def _answers(names: Sequence[str], edits: Sequence[ResolvedEdit]) -> dict[str, Input]:
    """What target, donor and every checkpoint say to the test prompts of the dimensions that they were asked."""
    subjects = [
        *(asked(which, name) for which in ("target", "donor") for name in names),
        *(
            asked(after(edit.key, name), other)
            for edit in edits
            for number, name in enumerate(names)
            for other in names[: number + 1]
        ),
    ]
    return {subject: said_by(subject, "test", *KINDS) for subject in subjects}


def dimension_samples(study: Study, edits: Sequence[ResolvedEdit]) -> dict[str, Input]:
    """The table of the dimensions and what stands behind its figures, as inputs; none without dimensions."""
    continual, names = _continual(edits), dimension_names(study)
    if not continual or not names:
        return {}
    prompts = {prompts_on(name): part_of(name, "test") for name in names}
    return {"dimensions": Input(DIMENSIONS), **prompts, **_answers(names, continual)}


def _continual(edits: Sequence[ResolvedEdit]) -> list[ResolvedEdit]:
    """The entries that work through dimensions."""
    return [edit for edit in edits if edit.row.continual]


def _table(study: Study, edits: Sequence[ResolvedEdit]) -> Step:
    """Every dimension after every step. Inputs are named by the steps they come from."""
    names, metric = dimension_names(study), study.function.measured_by
    return Step(
        DIMENSIONS,
        "evaluations.dimensions",
        {
            "metric": metric,
            "scorers": versions((metric,)),
            "measures": measures.VERSION,
            "direction": study.function.direction,
            "dimensions": names,
            "entries": [[edit.key, edit.row.name] for edit in edits],
            "seed": study.seed,
        },
        {
            **{name: part_of(name, "test") for name in names},
            **_answers(names, edits),
            **{
                checkpoint_key(edit.key, name): Input(checkpoint_key(edit.key, name), (MASKS,))
                for edit in edits
                for name in names
            },
        },
    )
