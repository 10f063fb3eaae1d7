"""Builder of the comparison of donors."""

from collections.abc import Mapping
from pathlib import Path

from cnt_pipeline.evaluations.ntrr import write_ntrr
from cnt_pipeline.neuron_rankings.query import RANKING
from cnt_pipeline.pipeline.builders.transplants import judge_of, space_of
from cnt_pipeline.pipeline.context import Context
from cnt_pipeline.store import JSON
from cnt_pipeline.transplants.select.build import refuse_inadmissible
from cnt_pipeline.transplants.select.candidates import read_orders


def ntrr(context: Context, folder: Path) -> Mapping[str, JSON]:
    """`ntrr.json`: how far the donor's best neurons bring the target at a fixed budget, by plain copy.

    Raises:
        InadmissibleError: the donor does not lead the target by the study's margin.
    """
    study, slice_ = context.study, context.step.slice
    judge, space = judge_of(context), space_of(context)
    refuse_inadmissible(judge.baselines, study.function, study.accept)
    context.report("asking the target with the donor's best neurons", 0, 0)
    orders = read_orders(context.path("ranking", RANKING), space, study.method.families)
    # A ranking without a look-alike effect has one order.
    order = orders.get(float(slice_["lambda"]), next(iter(orders.values())))
    document = write_ntrr(judge, space, order, float(slice_["share"]), study.seed, folder)
    return {"ntrr": document["ntrr"]["value"], "neurons": document["neurons"]}
