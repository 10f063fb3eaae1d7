"""What the phrase families were last measured at: a data record, since the labels need not be installed.

`python -m benchmarks.phrase_agreement` writes it from a real run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from cnt_pipeline.measures import phrases
from cnt_pipeline.study.fingerprint import sha256_text

RECORD = Path(__file__).with_name("phrases_agreement.yaml")


def phrases_digest() -> str:
    """SHA-256 of the phrase families' source: the record is of these phrases and no others."""
    return sha256_text(Path(phrases.__file__).read_text(encoding="utf-8"))


def phrase_agreement() -> Mapping[str, Any]:
    """The record: `phrases_version`, `phrases_sha256` and what `check_judge` found."""
    document: dict[str, Any] = yaml.safe_load(RECORD.read_text(encoding="utf-8"))
    return document
