"""What every benchmark prints: its claim's ratio against the limit, or one JSON document."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Claim:
    """One measured claim; `raw` holds the figures behind the ratio."""

    claim: str
    ratio: float
    limit: float
    raw: dict[str, Any]

    @property
    def holds(self) -> bool:
        """Whether the ratio keeps to its limit."""
        return self.ratio <= self.limit


def main(measure: Callable[[int], Claim], rounds: int) -> int:
    """Measure and print the claim; 0 when it holds, else 1."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    parser.add_argument("--rounds", type=int, default=rounds)
    given = parser.parse_args()
    found = measure(given.rounds)
    if given.json:
        print(json.dumps({**asdict(found), "holds": found.holds}))
    else:
        print(f"{'holds' if found.holds else 'FAILS'}  {found.claim}: {found.ratio:.3f} (limit {found.limit:g})")
    return 0 if found.holds else 1
