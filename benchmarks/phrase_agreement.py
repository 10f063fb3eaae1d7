"""Measure how far the phrase families agree with people, and write the record that every report prints:
``python -m benchmarks.phrase_agreement``. It needs ``pip install --no-deps pyrit==1.1.0``, which is read and never
imported."""

from importlib.metadata import version

import yaml

from cnt_pipeline.evaluations.judge_check import PACKAGE, check_judge, packaged_labels
from cnt_pipeline.measures.judges.phrases import PhraseJudge
from cnt_pipeline.measures.judges.record import RECORD, phrases_digest
from cnt_pipeline.measures.phrases import PHRASES_VERSION

HEADER = "# Written by `python -m benchmarks.phrase_agreement` from a real run; not to be edited by hand.\n"


def main() -> None:
    """Measure and write."""
    record = {
        "phrases_version": PHRASES_VERSION,
        "phrases_sha256": phrases_digest(),
        "package": f"{PACKAGE}=={version(PACKAGE)}",
        **check_judge(PhraseJudge(), packaged_labels(), "refused", 1),
    }
    temporary = RECORD.with_suffix(".tmp")
    temporary.write_text(HEADER + yaml.safe_dump(record, sort_keys=False), encoding="utf-8")
    temporary.replace(RECORD)


if __name__ == "__main__":
    main()
