"""Run benchmarks, each in a process of its own: `python -m benchmarks [--full] [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from benchmarks.figures import RESULTS

NAMES = ("assign", "train", "generate", "encode", "memory", "gpu", "prefix_match", "corpus")


def main() -> int:
    """Run what was asked for; the exit status is 1 where a benchmark failed to run. A missed limit is a result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of: {', '.join(NAMES)}; default: all")
    parser.add_argument("--full", action="store_true", help="at the production size (hours) instead of minutes")
    asked = parser.parse_args()
    unknown = sorted(set(asked.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    size = "full" if asked.full else "small"
    failed = []
    for name in asked.names or NAMES:
        print(f"== {name} ({size})", flush=True)  # noqa: T201
        command = [sys.executable, "-m", f"benchmarks.{name}", size]
        done = subprocess.run(command, env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"}, check=False)
        if done.returncode:
            failed.append(name)
    print(f"Results: {RESULTS}" + (f"; failed to run: {', '.join(failed)}" if failed else ""))  # noqa: T201
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
