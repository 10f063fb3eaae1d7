"""The scoring prompts with both models' answers, as the selection rules that score or learn anew read them."""

from cnt_pipeline.activation_caches.objectives import OBJECTIVES, answered, objectives_of
from cnt_pipeline.activation_caches.probes.effect import Objective, nodes
from cnt_pipeline.completions.build import EncodedSet
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
    """`NLL(y_D | P_f) + keep * NLL(y_T | P_u and P_n)`: a step's prompts are half look-alikes and half general ones."""
    sets = _scoring_sets(context)
    said = read_said(context, "target_scoring")
    said["function"] = read_said(context, "donor_scoring", ["function"])["function"]
    shares: dict[Kind, tuple[float, int]] = {
        "function": (1.0, settings.prompts),
        "lookalike": (settings.keep / 2, settings.others - settings.others // 2),
        "utility": (settings.keep / 2, settings.others // 2),
    }
    return [
        Term(
            kind,
            tuple(answered(tokens, row) for tokens, row in zip(sets[kind].tokens, said[kind], strict=True)),
            *shares[kind],
        )
        for kind in KINDS
    ]


def _scoring_sets(context: Context) -> dict[Kind, EncodedSet]:
    model = context.models.swap().model
    return {kind: encoded_set(context, model, "score", kind, "scoring_prompts") for kind in KINDS}
