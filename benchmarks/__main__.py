"""Run every claim's script, one after the other: `python -m benchmarks [--json]`."""

import subprocess
import sys

SCRIPTS = (
    "ranking_query", "cache_write", "activation_probe", "effect_path", "probe_memory", "transplant_time",
    "transplant_sha256_time", "transplant_memory", "edit_memory",
)  # fmt: skip


def main() -> int:
    """The number of claims that do not hold."""
    return sum(
        subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]]).returncode != 0 for name in SCRIPTS
    )


if __name__ == "__main__":
    sys.exit(main())
