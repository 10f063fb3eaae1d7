"""Claim: writing a transplanted 1 GB checkpoint takes at most 200 MB of memory.

`python -m benchmarks.transplant_memory [--json]`
"""

import sys

from benchmarks.claims import main
from benchmarks.transplant_stream import claim

if __name__ == "__main__":
    sys.exit(main(lambda rounds: claim("memory", rounds), rounds=1))
