"""A study as a graph of steps."""

from cnt_pipeline.pipeline.compare_steps import compared_steps
from cnt_pipeline.pipeline.donor_steps import NTRR, needed_for, ntrr_step, with_matching
from cnt_pipeline.pipeline.find_steps import (
    baseline_completions,
    cache_steps,
    models_steps,
    prompt_set_steps,
    ranking_steps,
)
from cnt_pipeline.pipeline.judge_steps import judge_steps
from cnt_pipeline.pipeline.prove_steps import evaluation_steps, final_completions, report_step, transplant_steps
from cnt_pipeline.pipeline.step import Step
from cnt_pipeline.pipeline.suite_steps import suite_steps
from cnt_pipeline.study.schema import Study
from cnt_pipeline.transplants.methods import resolve


def steps_of(study: Study) -> tuple[Step, ...]:
    """All steps of a study, every step after those it reads.

    Raises:
        StudyError: the method, a method to compare or a metric is not in its table.
    """
    method = resolve(study.method, study.file)
    models, sets = models_steps(study), prompt_set_steps(study)
    chain = (
        *(sets + models if study.models.taught_kinds() else models + sets),
        *baseline_completions(study),
        *cache_steps(study, method),
        *ranking_steps(study, method),
        *transplant_steps(study, method),
        *final_completions(study),
        *evaluation_steps(study, method),
        *suite_steps(study),
        *judge_steps(study),
    )
    return with_matching(study, (*chain, report_step(study, method, chain), *compared_steps(study, chain)))


def steps_of_donor(study: Study, budget: float) -> tuple[Step, ...]:
    """The steps that tell what the study's donor is good for, from its models to its NTRR at `budget`, a share of all
    parameters.

    Raises:
        StudyError: as `steps_of`.
    """
    method = resolve(study.method, study.file)
    chain = steps_of(study)
    last = with_matching(study, (ntrr_step(study, method, budget),))
    return needed_for([NTRR], (*chain, *last))
