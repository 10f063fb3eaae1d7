"""A judge of a study, made from its block."""

from pathlib import Path
from typing import Any

from cnt_pipeline.measures.judges.entry import FunctionJudge, source_of
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.measures.judges.schema import Judge
from cnt_pipeline.measures.judges.template import read_template, template_path
from cnt_pipeline.measures.phrases import PHRASES_VERSION
from cnt_pipeline.measures.scorers import SCORERS
from cnt_pipeline.models.load import Dtype
from cnt_pipeline.models.sources import resolve_model
from cnt_pipeline.study.judges import Judge as JudgeBlock

VERSION = 1
"""Of how answers are prepared and verdicts are read; raised when any of it changes."""


def make_judge(block: JudgeBlock, dtype: Dtype = "float32", device: str = "cpu") -> Judge:
    """Load the judge of a study's block.

    Raises:
        InputError: its model, template or function cannot be used.
    """
    if block.kind == "phrases":
        return PhraseJudge()
    if block.kind == "function":
        return FunctionJudge(str(block.function))
    # Torch is imported only for judges that are models.
    from cnt_pipeline.measures.judges.modelled import ClassifierJudge, GuardJudge

    assert block.model is not None
    template = None if block.template is None else read_template(block.template, block.kind)
    folder = resolve_model(block.model)
    if block.kind == "guard":
        assert template is not None
        return GuardJudge(folder, template, dtype, device)
    return ClassifierJudge(folder, block.labels, block.reads, template, dtype, device)


def refuse_unusable(block: JudgeBlock) -> None:
    """Stop before anything is computed where a judge's model, template or function is not there.

    Raises:
        InputError: naming what is missing.
    """
    if block.model is not None:
        resolve_model(block.model)
    if block.template is not None:
        read_template(block.template, block.kind)
    if block.function is not None:
        source_of(block.function)


def slice_of(block: JudgeBlock, dtype: str) -> dict[str, Any]:
    """What of a judge's block changes its verdicts; the contents of files that it names count by their digests."""
    version: dict[str, Any] = {"judges": VERSION, "coherence": SCORERS["coherence"][1]}
    if block.kind == "phrases":
        version["phrases"] = PHRASES_VERSION
    settings = block.model_dump(mode="json", include={"kind", "labels", "reads", "function"}, exclude_defaults=True)
    return {**settings, "versions": version, **({"dtype": dtype} if block.model is not None else {})}


def files_of(block: JudgeBlock) -> list[Path]:
    """Files beside its model that say what a judge does: its template, or its function's source."""
    found = [template_path(block.template)] if block.template is not None else []
    return [*found, *([source_of(block.function)] if block.function is not None else [])]
