"""How far the ranking depends on the scoring prompts, as rows and as one sentence."""

import math
from typing import Any

from cnt_pipeline.reports import words
from cnt_pipeline.reports.material import Material


def stability_rows(material: Material) -> list[dict[str, Any]]:
    """Rows of the overlap, by budget, of the ranking that the transplant was taken from."""
    return [row for row in _rows(material) if row["measure"] == "overlap"]


def _rows(material: Material) -> list[dict[str, Any]]:
    rows = material.stability.to_dicts()
    weight = material.selection["lookalike_weight"]
    chosen = [row for row in rows if row["lookalike_weight"] == weight]
    return chosen or [row for row in rows if row["lookalike_weight"] == rows[0]["lookalike_weight"]]


def stability_sentence(material: Material) -> str:
    """What the curve says at about the transplant's budget, and over all neurons."""
    rows = stability_rows(material)
    moved = material.selection["share"]
    spearman = next(row for row in _rows(material) if row["measure"] == "spearman")
    overall = f"over all neurons the rank correlation (Spearman) is {words.number(spearman['mean'], 2)}"
    if not rows:
        return f"With the scoring prompts drawn anew, {overall}."
    near = min(rows, key=lambda row: abs(math.log(row["share"] / moved)))
    return (
        f"With the scoring prompts drawn anew ({near['resamples']} times, with replacement), "
        f"{words.percent(near['mean'], 0)} of the best {words.number(near['neurons'])} neurons "
        f"of the {near['effect']} ranking ({words.share(near['share'])} of all parameters) stay among the best as many "
        f"(5 to 95 % of the draws: {words.interval('utility', near['low'], near['high'])} %; a random order would keep "
        f"{words.percent(near['chance'], 0)}); {overall}."
    )
