"""Claim: with the sha256 of every file before and after, it takes at most 6 times as long as `cp`.

`python -m benchmarks.transplant_sha256_time [--json]`
"""

import sys

from benchmarks.claims import main
from benchmarks.transplant_stream import claim

if __name__ == "__main__":
    sys.exit(main(lambda rounds: claim("with sha256", rounds), rounds=9))
