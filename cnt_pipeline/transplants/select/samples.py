"""What every set of neurons said on the selection prompts and how that was judged, kept while a judge is asked."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from cnt_pipeline.completions.schema import Completion
from cnt_pipeline.measures.metrics import METRICS, metric_of
from cnt_pipeline.measures.scorers import SCORERS, coherence
from cnt_pipeline.prompt_sets.schema import Prompt
from cnt_pipeline.store.parquet import write_parquet
from cnt_pipeline.study.schema import Kind

TRIAL_SAMPLES = "trial_samples.parquet"

SCHEMA = pa.schema(
    [
        ("asked", pa.int32()),
        ("kind", pa.string()),
        ("id", pa.string()),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("coherence", pa.float64()),
        ("text", pa.string()),
        ("choice_loglik", pa.list_(pa.float64())),
    ]
)
"""A row per set of neurons that was asked, and prompt.

`asked` numbers the sets in the order asked: 0 is the target, 1 the donor. `metric` is what the kind of prompts is asked
for, and `value` how this answer counts in it; `value` and `coherence` are null where they cannot be judged. `text` is
empty where no answer was asked for. `choice_loglik` is the summed log-likelihood of each of the prompt's choices in
nats, null for a prompt without choices. Where the function was not reached there are function prompts only.
"""


class Samples:
    """Numbers whoever is asked and keeps a small table of what each said: no tokens, no tensors."""

    def __init__(self) -> None:
        self._tables: list[pa.Table] = []

    def add(
        self, function: str, prompts: Mapping[Kind, Sequence[Prompt]], rows: Mapping[Kind, Sequence[Completion]]
    ) -> int:
        """Keep the answers to the kinds of prompts in `rows`; returns their number."""
        number = len(self._tables)
        found = []
        for kind, said in rows.items():
            metric = metric_of(kind, function)
            scorer = SCORERS[METRICS[metric].scorer][0]
            for prompt, row in zip(prompts[kind], said, strict=True):
                found.append(
                    {
                        "asked": number,
                        "kind": kind,
                        "id": prompt.id,
                        "metric": metric,
                        "value": scorer(prompt, row),
                        "coherence": coherence(prompt, row) if row.token_ids else None,
                        "text": row.text,
                        "choice_loglik": list(row.choice_loglik) or None,
                    }
                )
        self._tables.append(pa.Table.from_pylist(found, schema=SCHEMA))
        return number

    def write(self, path: Path) -> None:
        """Write all of them in the order asked."""
        write_parquet(pa.concat_tables([SCHEMA.empty_table(), *self._tables]), path)
