"""What the demo spends beside generation, grading and learning, where it goes, and how much memory it takes at most.

Orchestration is the wall time of the epochs less what the engine, the grader and the update took, in evaluations too.
The run goes through the command, in a store of its own; beside it stand, on the same problems and in the same minutes,
a plain loop without flows and history, flow runs and task runs that do nothing, a run that was killed and resumed and,
without `--quick`, the shortest run in both modes. `--quick` shortens the demo's stages.
"""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Figure, options, tell
from bench.plain_loop import PlainLoop
from flows.runs import Run, open_run

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "configs" / "demo.yaml"
SHORTEST = ROOT / "tests" / "flows" / "tiny.yaml"
QUICK = ("--set", "stages.math.max_steps=15", "--set", "stages.math_and_code.max_steps=20")
COMMAND = [sys.executable, "-m", "flows"]
WORK = ("generate", "grade", "update", "evaluate")
STORAGE = ("store", "checkpoint", "load")
STAGES_AN_EPOCH = 3  # flow runs that nothing else runs beside: rollout, resample, evaluate
_BASE_SECONDS = """
    SELECT sum(value) AS seconds FROM metrics
    WHERE stage = 0 AND name IN ('timing_s/evaluate', 'timing_s/grade')
"""
_SECONDS = """
    SELECT replace(name, 'timing_s/', '') AS kind, sum(value) AS seconds
    FROM metrics WHERE stage > 0 AND name LIKE 'timing_s/%' GROUP BY name
"""


@dataclass(frozen=True)
class Spent:
    """A finished run: seconds of its command, of the base's evaluation, and of each kind of work in its epochs.

    And how many epochs and steps it has.
    """

    wall: float
    base: float
    kinds: Mapping[str, float]
    epochs: int
    steps: int

    @property
    def in_epochs(self) -> float:
        """Wall time of the epochs."""
        return self.kinds["wall"]

    @property
    def work(self) -> float:
        """Generation, grading and learning in the epochs."""
        return sum(self.kinds.get(kind, 0.0) for kind in WORK)

    @property
    def orchestration(self) -> float:
        """What else the epochs took."""
        return self.in_epochs - self.work


def main() -> None:
    """Run everything, and tell."""
    asked = options(__doc__ or "")
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        demo = finished_run(DEMO, place / "runs", *(QUICK if asked.quick else ()))
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        figures = [
            *shares(demo),
            Figure("peak memory of the largest process", peak, "MB", 1536.0, "<= 1536", peak <= 1536),
        ]
        figures += [plain(open_run(place / "runs", "demo"), place), *prefect(demo), *resumed(place / "killed")]
        if not asked.quick:
            figures += in_both_modes(place)
    tell(figures, asked)


def environment(**more: str) -> dict[str, str]:
    """This process's environment with one thread for torch, and what is given."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | more


def finished_run(settings: Path, store: Path, *more: str, **variables: str) -> Spent:
    """Run the command to its end and look at what the history says."""
    start = time.perf_counter()
    command = [*COMMAND, "run", str(settings), "--store", str(store), *more]
    subprocess.run(command, env=environment(**variables), check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    history = open_run(store, settings.stem).history
    kinds = {row["kind"]: row["seconds"] for row in history.sql(_SECONDS).to_pylist()}
    base = history.sql(_BASE_SECONDS)["seconds"][0].as_py()
    return Spent(wall, base, kinds, history.read("transitions").num_rows, history.read("policies").num_rows - 1)


def shares(demo: Spent) -> list[Figure]:
    """Orchestration's share, and what the seconds outside the epochs are."""
    share = demo.orchestration / demo.in_epochs
    of_all = 1 - (demo.work + demo.base) / demo.wall
    storage = sum(demo.kinds.get(kind, 0.0) for kind in STORAGE)
    return [
        Figure("orchestration", share, "of the epochs' time", 0.10, "<= 0.10", share <= 0.10),
        Figure("all but work, start and report too", of_all, "of the wall time", 0.10, "<= 0.10", of_all <= 0.10),
        Figure("orchestration in seconds, beside the epochs' time", demo.orchestration, "s", demo.in_epochs),
        Figure(
            "orchestration of a step, all in all, beside its work",
            demo.orchestration / demo.steps,
            "s",
            demo.work / demo.steps,
        ),
        Figure("storage: shards, checkpoints, loading (partly beside the work)", storage, "s", demo.in_epochs),
        Figure("start, base evaluation and report, beside the wall time", demo.wall - demo.in_epochs, "s", demo.wall),
        Figure("wall time", demo.wall, "s", 480.0, "<= 480", demo.wall <= 480),
    ]


def plain(run: Run, scratch: Path) -> Figure:
    """The steps of the run's first epoch beside the same steps in a plain loop, which gives the same policy."""
    loop = PlainLoop(run, 1, 0)
    wall, evaluation = (
        _seconds(run, part) for part in ("epoch = 0 AND kind = 'epoch'", "epoch = 1 AND kind = 'evaluate'")
    )
    (scratch / "plain").mkdir()
    least = loop.seconds(scratch / "plain")
    return Figure("the first epoch without its evaluation, beside a plain loop", wall - evaluation, "s", least)


def _seconds(run: Run, part: str) -> float:
    """What was measured in a part of stage 1."""
    query = f"SELECT sum(value) AS seconds FROM metrics WHERE stage = 1 AND {part} AND name LIKE 'timing_s/%'"
    return float(run.history.sql(query).to_pylist()[0]["seconds"] or 0.0)


def prefect(demo: Spent) -> list[Figure]:
    """What the demo's flow runs and task runs cost, by those that do nothing, beside the orchestration."""
    command = [sys.executable, "-m", "bench.empty_flows"]
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    empty = json.loads(done.stdout)
    flows, tasks = empty["flow_run"] * STAGES_AN_EPOCH * demo.epochs, empty["task_run"] * 2 * demo.steps
    return [
        Figure("Prefect's flow runs", flows, "s", demo.orchestration),
        Figure("Prefect's task runs", tasks, "s", demo.orchestration),
        Figure("one flow run that does nothing", empty["flow_run"], "s"),
        Figure("one task run that does nothing", empty["task_run"], "s"),
    ]


def resumed(store: Path) -> list[Figure]:
    """From `srpo resume` of a run that was killed in an epoch to its next committed step, beside a run's first step."""
    first = _until_steps(["run", str(DEMO), "--store", str(store)], store, 3)
    again = _until_steps(["resume", "demo", "--store", str(store)], store, len(_committed(store)) + 1)
    return [Figure("from srpo resume to the first new step, beside srpo run to its third", again, "s", first)]


def _until_steps(arguments: list[str], store: Path, steps: int) -> float:
    """Seconds from the start of the command until so many steps are committed; then it is killed."""
    start = time.perf_counter()
    process = subprocess.Popen([*COMMAND, *arguments], env=environment(), stdout=subprocess.DEVNULL)
    try:
        while len(_committed(store)) < steps:
            if process.poll() is not None:
                raise RuntimeError(f"srpo {' '.join(arguments)} ended with status {process.returncode}")
            time.sleep(0.01)
        return time.perf_counter() - start
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _committed(store: Path) -> list[Path]:
    return list(store.glob("demo/index/run=demo/stage=1/epoch=*/step-*.parquet"))


def in_both_modes(place: Path) -> list[Figure]:
    """The shortest run under `srpo serve`, in the mode `deployments`, beside the same in one process."""
    inline = finished_run(SHORTEST, place / "inline")
    with _serving(place / "deployed") as url:
        apart = finished_run(SHORTEST, place / "deployed", "--mode", "deployments", PREFECT_API_URL=url)
    name = SHORTEST.stem
    return [
        Figure(f"{name}: wall time in the mode deployments, beside inline", apart.wall, "s", inline.wall),
        Figure(
            f"{name}: orchestration in the mode deployments, beside inline",
            apart.wall - apart.work,
            "s",
            inline.wall - inline.work,
        ),
        Figure(
            f"{name}: an epoch in the mode deployments, beside inline",
            apart.in_epochs / apart.epochs,
            "s",
            inline.in_epochs / inline.epochs,
        ),
    ]


@contextmanager
def _serving(store: Path) -> Iterator[str]:
    """`srpo serve` with a Prefect home of its own while the block runs; gives the API's URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    command = [*COMMAND, "serve", "--port", port, "--store", str(store)]
    home = {"PREFECT_HOME": str(store / "prefect")}
    with subprocess.Popen(command, env=environment(**home), stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or port not in process.stdout.readline():
                raise RuntimeError("srpo serve did not start")
            yield f"http://127.0.0.1:{port}/api"
        finally:
            process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
