"""The donor's part of the graph: a donor in another order (`match: activation`), and the comparison of candidates."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pydantic import ValidationError

from cnt_pipeline.errors import StudyError
from cnt_pipeline.pipeline.find_steps import PAIR
from cnt_pipeline.pipeline.prove_steps import judging, selection_inputs
from cnt_pipeline.pipeline.step import MATCHED, Input, Step, model_input, pair, prompts_of
from cnt_pipeline.study.schema import Models, ModelSource, Study
from cnt_pipeline.transplants.methods import ResolvedMethod

NTRR = "evaluations/ntrr"
ASKED = ("completions/target/selection", "completions/donor/selection")
"""Steps whose results say whether a donor is admissible."""
_LONGEST_NAME = 64


def with_matching(study: Study, chain: Sequence[Step]) -> tuple[Step, ...]:
    """`chain`, in which every step below the models reads the matched donor instead of the donor as it came."""
    if study.match == "index":
        return tuple(chain)
    first = next(n for n, step in enumerate(chain) if step.stage not in ("models", "prompt_sets"))
    before = [replace(step, slice={**step.slice, "match": study.match}) if step.key == PAIR else step
              for step in chain[:first]]  # fmt: skip
    matched = Step(
        MATCHED,
        "models.match_donor",
        {"match": study.match, "dtype": study.dtype, "system": study.generation.system},
        {**pair(), "prompts": prompts_of("score", "utility")},
        after=(PAIR,),
    )
    return (*before, matched, *(_reading_matched(step) for step in chain[first:]))


def _reading_matched(step: Step) -> Step:
    donor = model_input("donor")
    inputs = {name: Input(MATCHED, source.files) if source == donor else source for name, source in step.inputs.items()}
    if step.names_inputs:  # the report names every step, the donor as it came among them
        inputs["models/donor"] = donor
    return replace(step, inputs=inputs)


def ntrr_step(study: Study, method: ResolvedMethod, budget: float) -> Step:
    """How much of the function the best neurons of this study's donor carry within `budget`, a share of all
    parameters."""
    return Step(
        NTRR,
        "donors.ntrr",
        {
            "share": budget,
            "lambda": study.method.lookalike_weight[0],
            "families": study.method.families,
            "seed": study.seed,
            **judging(study),
        },
        selection_inputs(method),
    )


def needed_for(keys: Sequence[str], chain: Sequence[Step]) -> tuple[Step, ...]:
    """The steps of `chain` named by `keys` and all that they build on, in the chain's order."""
    steps = {step.key: step for step in chain}
    wanted: set[str] = set()
    waiting = list(keys)
    while waiting:
        key = waiting.pop()
        if key not in wanted:
            wanted.add(key)
            waiting += [*(source.step for source in steps[key].inputs.values()), *steps[key].after]
    return tuple(step for step in chain if step.key in wanted)


def as_donor(study: Study, name: str) -> Study:
    """`study` with its model `name` in the donor's place, and the donor under that name.

    Raises:
        StudyError: the model cannot be a donor of this study's target.
    """
    if name == "donor":
        return study
    places = {"donor": name, name: "donor"}

    def moved() -> Iterator[tuple[str, object]]:
        for which, model in study.models.named().items():
            if not isinstance(model, ModelSource):
                model = model.model_copy(update={"base": places.get(model.base, model.base)})
            yield places.get(which, which), model

    try:
        models = Models.model_validate(dict(moved()))
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise StudyError(f"{study.file}:models.{name}: as a donor: {reason}") from None
    called = f"{study.study[: _LONGEST_NAME - len(name) - 3]}--{name}"[:_LONGEST_NAME]
    return study.model_copy(update={"study": called, "models": models})
