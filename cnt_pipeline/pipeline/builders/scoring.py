"""The scoring prompts with both models' answers, as the selection rules that score or learn anew read them."""

from collections.abc import Sequence

from cnt_pipeline.activation_caches.objectives import OBJECTIVES, answered, objectives_of
from cnt_pipeline.activation_caches.probes.effect import Objective, nodes
from cnt_pipeline.completions.build import EncodedSet
from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.models.teacher import Example
from cnt_pipeline.pipeline.builders.completions import encoded_set, read_said
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.study.schema import KINDS, Kind
from cnt_pipeline.transplants.select.candidates import Space
from cnt_pipeline.transplants.select.learn import Term
from cnt_pipeline.transplants.select.refine import InsideEffects
from cnt_pipeline.transplants.select.settings import LearnSettings


def inside_effects(context: Context, space: Space) -> InsideEffects:
    """The path effect of methods section 1 on the scoring prompts, for the neurons of a set."""
    sets = _scoring_sets(context)
    said = read_said(context, "target_scoring")
    donated = read_said(context, "donor_scoring", ["function"])["function"]
    objectives: dict[str, list[Objective]] = {
        name: [goal for kind in kinds for goal in objectives_of(name, sets[kind], said[kind], donated)]
        for name, kinds in OBJECTIVES.items()
    }
    method = context.study.method
    return InsideEffects(
        context.models.swap(), space, objectives, nodes(method.nodes), method.damage_weight, context.batch_size,
        context.report,
    )  # fmt: skip


def terms_of(context: Context, settings: LearnSettings) -> list[Term]:
    """The donor's answers to function prompts, and `keep` times the target's to the others.

    Look-alike and utility prompts are half each of the others, so that together they count as one set. Where a utility
    prompt has a reference in free text, that counts beside the target's answer: it must not get less likely either.
    """
    sets = _scoring_sets(context)
    ours = read_said(context, "target_scoring")
    theirs = read_said(context, "donor_scoring", ["function"])["function"]

    def examples(kind: Kind, rows: Sequence[Completion]) -> tuple[Example, ...]:
        return tuple(
            _cut(answered(tokens, row), settings.tokens) for tokens, row in zip(sets[kind].tokens, rows, strict=True)
        )

    against = examples("function", ours["function"]) if settings.objective == "preference" else ()
    kept = examples("lookalike", ours["lookalike"])
    half, rest = settings.others // 2, settings.others - settings.others // 2
    lookalike = Term("lookalike", kept, settings.keep / 2, rest)
    if settings.misfire:
        misfires = examples("lookalike", [theirs[i % len(theirs)] for i in range(len(kept))])
        share = settings.keep / 2 / settings.misfire
        lookalike = Term("lookalike", kept, settings.misfire, rest, misfires, likelihood=share)
    useful = sets["utility"]
    references = tuple(
        _cut(Example(tokens + answer, len(tokens)), settings.tokens)
        for prompt, tokens, answer in zip(useful.prompts, useful.tokens, useful.answers, strict=True)
        if prompt.reference and answer
    )
    return [
        Term("function", examples("function", theirs), 1.0, settings.prompts, against, squared=bool(against)),
        lookalike,
        Term("utility", examples("utility", ours["utility"]) + references, settings.keep / 2, half),
    ]


def _cut(example: Example, tokens: int | None) -> Example:
    return example if tokens is None else Example(example.tokens[: example.start + tokens], example.start)


def _scoring_sets(context: Context) -> dict[Kind, EncodedSet]:
    model = context.models.swap().model
    return {kind: encoded_set(context, model, "score", kind, "scoring_prompts") for kind in KINDS}
