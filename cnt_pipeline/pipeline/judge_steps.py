"""The steps that judge stored answers: one for each judge of the study, and one for where they disagree."""

from cnt_pipeline import measures
from cnt_pipeline.measures.judges.build import slice_of
from cnt_pipeline.measures.judges.schema import JUDGED
from cnt_pipeline.pipeline.prove_steps import aside_of
from cnt_pipeline.pipeline.step import SUBJECTS, Input, Step, prompts_of, said_by
from cnt_pipeline.study.schema import Study

JUDGES = "evaluations/judges"


def judged_key(name: str) -> str:
    """The step of one judge."""
    return f"evaluations/judged_{name}"


def judge_steps(study: Study) -> list[Step]:
    """None where the study names no judge. They read answers and generate none: another judge asks no model again."""
    if not study.judges:
        return []
    asked = {"prompts": prompts_of("test", *JUDGED)}
    steps = [
        Step(
            judged_key(judge.name),
            "judges.judge",
            {"name": judge.name, "judge": slice_of(judge, study.dtype)},
            {**asked, **{subject: said_by(subject, "test", *JUDGED) for subject in SUBJECTS}},
            external=judge,
        )
        for judge in study.judges
    ]
    summary = Step(
        JUDGES,
        "judges.summarise",
        {
            "judges": [judge.name for judge in study.judges],
            "measures": measures.VERSION,
            "seed": study.seed,
            **aside_of(study),
        },
        {**asked, **{f"judged_{judge.name}": Input(judged_key(judge.name)) for judge in study.judges}},
    )
    return [*steps, summary]
