"""How long a command takes before it does anything: ``driftgraph --help`` and ``driftgraph config show``.

Prints one JSON object: seconds by command, the best of several runs.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file can be run as it is

from benchmarks.report import finish

RUNS = 5
COMMANDS = (("--help",), ("config", "show"))


def seconds_of(arguments: tuple[str, ...]) -> float:
    """One run, from start to exit."""
    command = [str(Path(sys.executable).with_name("driftgraph")), *arguments]
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def main() -> None:
    """Run each command a few times and print the best."""
    best = {" ".join(c): round(min(seconds_of(c) for _ in range(RUNS)), 3) for c in COMMANDS}
    finish({"runs": RUNS, "seconds": best}, [], as_json=True)  # no bound is asked of it


if __name__ == "__main__":
    main()
