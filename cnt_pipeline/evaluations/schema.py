"""Layout of the evaluation artifacts."""

import pyarrow as pa

SAMPLES = "samples.parquet"
METRICS = "metrics.parquet"
FRONTIER = "frontier.parquet"
FRONTIER_SAMPLES = "frontier_samples.parquet"
"""What every set of neurons of the frontier said: laid out as those of the search, `transplants.select.samples`."""
NEEDED = "frontier.json"
STABILITY = "stability.parquet"
VERDICT = "verdict.json"
STATISTICS = "statistics.json"
STATISTICS_TABLE = "statistics.parquet"
CAUSAL = "causal.parquet"
"""Samples of the leaderboard's patched targets, laid out as other samples; `subject` is the entry."""

SAMPLES_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("value", pa.float64()),
    ]
)
"""A row per judged sample, with the source of its prompt; `value` is null where the scorer could not judge."""

METRICS_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("source", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("unscored", pa.int64()),
        ("vs_target", pa.float64()),
        ("vs_target_low", pa.float64()),
        ("vs_target_high", pa.float64()),
        ("vs_donor", pa.float64()),
        ("vs_donor_low", pa.float64()),
        ("vs_donor_high", pa.float64()),
    ]
)
"""A row per subject and metric with 95 % intervals; `vs_*` are paired differences, of the mean NLL for a perplexity.

`source` is empty for all prompts that the gates read; where a metric's prompts come from several sources, each has a
row of its own.
"""

STATISTICS_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("metric", pa.string()),
        ("source", pa.string()),
        ("against", pa.string()),
        ("test", pa.string()),
        ("difference", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("p", pa.float64()),
        ("p_holm", pa.float64()),
        ("n", pa.int64()),
        ("discordant", pa.int64()),
        ("mde", pa.float64()),
    ]
)
"""A row per subject, metric, source and model it is compared with, `target` or `donor`, prompt by prompt.

`difference` is the subject's mean less the other's with its 95 % interval, in nats for a perplexity. `test` is
mcnemar_exact, with the number of `discordant` prompts, or sign_flip, where that is null. `p_holm` is corrected over the
study's metrics; `mde` is the smallest difference that the test would have shown with a chance of 80 %, null where that
cannot be told.
"""

VERDICTS = "verdicts.parquet"
JUDGE = "judge.json"
VERDICTS_SCHEMA = pa.schema(
    [
        ("subject", pa.string()),
        ("kind", pa.string()),
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("judge", pa.string()),
        ("verdict", pa.string()),
        ("confidence", pa.float64()),
    ]
)
"""A row per answer to a function or look-alike prompt; `confidence` is null where the judge gives none."""

JUDGES_SUMMARY = "judges.json"
SHARES = "shares.parquet"
SHARES_SCHEMA = pa.schema(
    [
        ("judge", pa.string()),
        ("subject", pa.string()),
        ("kind", pa.string()),
        ("verdict", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
    ]
)
"""Share of a subject's answers that a judge gives a verdict, with 95 % intervals; of several draws a prompt counts with
its mean. Prompts of sources that no gate reads are left out."""

DIMENSIONS = "dimensions.json"
DIMENSIONS_TABLE = "dimensions.parquet"
DIMENSIONS_SCHEMA = pa.schema(
    [
        ("entry", pa.string()),
        ("step", pa.int32()),
        ("after", pa.string()),
        ("dimension", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("vs_target", pa.float64()),
        ("vs_target_low", pa.float64()),
        ("vs_target_high", pa.float64()),
        ("rows", pa.int64()),
        ("shared", pa.int64()),
    ]
)
"""A row per dimension asked after a step, with 95 % intervals; `vs_*` are paired differences.

`entry` is an entry of the leaderboard, or target or donor, which have step 0. `after` is the dimension that was worked
last, with the `rows` of weight matrices that it added, of which `shared` were edited for an earlier one before.
"""

DIMENSION_SAMPLES_SCHEMA = pa.schema(
    [
        ("entry", pa.string()),
        ("step", pa.int32()),
        ("after", pa.string()),
        ("dimension", pa.string()),
        ("metric", pa.string()),
        ("source", pa.string()),
        ("id", pa.string()),
        ("variant", pa.int32()),
        ("value", pa.float64()),
    ]
)
"""A row per judged sample behind the figures of dimensions, which are keyed alike; `value` is null where the scorer
could not judge."""

WORTH_ASKING = 0.5
"""Recovery from which the frontier asks misfires, utility and coherence too: the least that the report looks up."""

FRONTIER_SCHEMA = pa.schema(
    [
        ("series", pa.string()),
        ("effect", pa.string()),
        ("selection", pa.string()),
        ("eta", pa.float64()),
        ("lookalike_weight", pa.float64()),
        ("variant", pa.int32()),
        ("asked", pa.int32()),
        ("neurons", pa.int64()),
        ("parameters", pa.int64()),
        ("share", pa.float64()),
        ("function", pa.float64()),
        ("recovery", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("misfire", pa.float64()),
        ("utility", pa.float64()),
        ("coherence", pa.float64()),
    ]
)
"""Recovery on selection prompts against parameters moved; `low` and `high` bound the recovery at 95 %.

`series` is effect, random, largest_delta, transplant or whole_donor. `variant` numbers the draws of random neurons; it
is null where a row stands for its series: the only draw, or the mean over all of them. What was not asked (low
recovery) or does not apply is null, `eta` also where the transplant's neurons have amplitudes of their own.

`asked` is the number of the samples in `frontier_samples.parquet`, alike for equal sets. It is null for a mean over
draws, and for the transplant as the search found it, whose samples are in `trial_samples.parquet` under the number that
`selection.json` tells.
"""

STABILITY_SCHEMA = pa.schema(
    [
        ("effect", pa.string()),
        ("lookalike_weight", pa.float64()),
        ("measure", pa.string()),
        ("share", pa.float64()),
        ("neurons", pa.int64()),
        ("mean", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("chance", pa.float64()),
        ("resamples", pa.int64()),
    ]
)
"""Agreement of rankings from resampled prompts with the full one: mean and 5-95 % range over the resamples.

`measure` is overlap (share of the full ranking's best `neurons` that a resample keeps among as many; `share` are their
parameters, `chance` is what a random order would keep) or spearman (over all neurons).
"""
