"""Claim: writing a transplanted 1 GB checkpoint without digests takes at most 1.6 times as long as `cp` of the file.

`python -m benchmarks.transplant_time [--json]`
"""

import sys

from benchmarks.claims import main
from benchmarks.transplant_stream import claim

if __name__ == "__main__":
    sys.exit(main(lambda rounds: claim("without digests", rounds), rounds=9))
