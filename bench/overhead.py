"""What the demo spends beside generation, grading and learning, and how much memory it takes at most.

Runs the demo through the command, in a store of its own; `--quick` shortens its stages.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, options, tell

DEMO = Path(__file__).parent.parent / "configs" / "demo.yaml"
STORAGE = ("store", "checkpoint", "load")
QUICK = ("--set", "stages.math.max_steps=15", "--set", "stages.math_and_code.max_steps=20")


def main() -> None:
    """Run the demo, measure and tell."""
    asked = options(__doc__ or "")
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "flows"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        run = [*command, "run", str(DEMO), "--store", store, *(QUICK if asked.quick else ())]
        subprocess.run(run, env=environment, check=True)
        wall = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        status = [*command, "status", "demo", "--json", "--store", store]
        told = json.loads(subprocess.run(status, env=environment, check=True, capture_output=True, text=True).stdout)
    seconds = told["seconds"]
    in_epochs = seconds["wall"]
    storage = sum(seconds[kind] for kind in STORAGE)
    share = (seconds["orchestration"] + storage) / in_epochs
    tell(
        [
            Figure("orchestration and storage", share, "of the epochs' time", None, "<= 0.15", share <= 0.15),
            Figure("orchestration", seconds["orchestration"], "s", in_epochs),
            Figure("storage", storage, "s", in_epochs),
            Figure("start, base evaluation and report", wall - in_epochs, "s", wall),
            Figure("wall time", wall, "s", 480.0, "<= 480", wall <= 480),
            Figure("peak memory of the largest process", peak, "MB", 1536.0, "<= 1536", peak <= 1536),
        ],
        asked,
    )


if __name__ == "__main__":
    main()
