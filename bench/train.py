"""Tokens a second and peak memory of our update beside TRL's GRPOTrainer, on the same model, rollouts and rewards.

Each side learns in a process of its own, with as many threads, float32, one optimizer step a batch; the first step is
left out and the median of the others told. All completion tokens count, whether a side computes them or may leave them
out. Both start from the same weights and use the same advantages (reward less its group's mean), so that their
gradients must have the same norm, which is a row of the table. TRL (bench/train_trl.py says how it is set up) puts as
many rows through its model at once as were faster of 8 and 64 on the lab, and 8 of SmolLM2's. `limit` is 6 operations
a parameter and computed token at the rate of a plain float32 multiplication, measured in the same process.

TRL needs an environment of its own: SRPO_BENCH_TRL names one, else it is made in ~/.cache/srpo-bench. `--only lab` or
`--only smollm2` measures one of the two models; `--quick` takes 4 of SmolLM2's 30 layers.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

from bench.figures import Figure, Options, tell
from bench.train_case import Case, lab_rollouts, rewards, smollm2_rollouts

TRL = "trl==1.16.0", "torch==2.13.0"
GOALS = {False: 1.5, True: 3.0}  # x TRL, by whether half of the groups have no variance
HERE = Path(__file__).parent


def trl_python() -> Path:
    """The interpreter of TRL's environment, which is made when none is named."""
    named = os.environ.get("SRPO_BENCH_TRL")
    directory = Path(named) if named else Path.home() / ".cache" / "srpo-bench" / "trl-1.16.0"
    python = directory / "bin" / "python"
    if named and not python.exists():
        raise SystemExit(f"SRPO_BENCH_TRL names {directory}, which holds no bin/python: name a virtual environment")
    if not (directory / "made").exists() and not named:
        venv.create(directory, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TRL], check=True)
        (directory / "made").touch()
    return python


def measured(command: list[Any], threads: int) -> dict[str, float]:
    """What a side prints on its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed:\n{done.stderr[-2000:]}")
    values: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return values


def compared(name: str, case: Case, directory: Path, *, half: bool, steps: int) -> list[Figure]:
    """Both sides on one case."""
    path = case.write(directory / "case.json")
    ours = measured([sys.executable, "-m", "bench.train_ours", path, steps], case.threads)
    trl = measured([trl_python(), "-P", HERE / "train_trl.py", path, steps], case.threads)
    tokens = sum(map(len, case.completions))
    what = f"{name}, {'half the groups' if half else 'no group'} without variance"
    goal, speed = f">= {GOALS[half]:g} x TRL", trl["seconds"] / ours["seconds"]
    mega = 1e6
    return [
        Figure(
            f"{what}: learned",
            tokens / ours["seconds"],
            "tokens/s",
            tokens / trl["seconds"],
            goal,
            speed >= GOALS[half],
        ),
        Figure("  a step", ours["seconds"], "s", trl["seconds"]),
        Figure("  the same beside its limit", ours["seconds"], "s", ours["limit"]),
        Figure("  peak memory", ours["peak"] / mega, "MB", trl["peak"] / mega, "below TRL", ours["peak"] < trl["peak"]),
        Figure("  norm of the gradient", ours["gradient"], "", trl["gradient"]),
    ]


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions and layers; ends within three minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
    parser.add_argument("--only", choices=["lab", "smollm2"], help="one model alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of each side")
    asked = parser.parse_args()
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        cases = {}
        if asked.only != "smollm2":
            cases["lab"] = lab_rollouts(), 64, 3 if asked.quick else 15
        if asked.only != "lab":
            layers = 4 if asked.quick else 30
            cases[f"SmolLM2-135M's shape, {layers} layers"] = smollm2_rollouts(directory, layers=layers), 8, 1
        for name, ((policy, prompts, completions), rows, steps) in cases.items():
            for half in (False, True):
                worth = rewards(len(prompts) // 8, zero_variance=half)
                case = Case(str(policy), prompts, completions, worth, rows, asked.threads)
                figures += compared(name, case, directory, half=half, steps=steps)
    tell(figures, Options(asked.quick, asked.json))


if __name__ == "__main__":
    main()
