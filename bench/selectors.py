"""What choosing an epoch's prompts costs after 1, 10 and 30 epochs of the paper's size: every selector, and the visits.

An epoch is 41 steps of 256 prompts with 32 rollouts (328 shards of 1,024); every prompt is visited in every epoch,
which is the worst case. Only the narrow index files are made: no selector reads a shard. `--quick` stops at 10 epochs.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench.figures import Figure, options, tell
from srpo_core.settings.resampling import ResamplingSettings
from storage.history import RunHistory
from storage.selectors import load_rule, record_visits, select, selector_names
from storage.tables import INDEX, conform, write_parquet

STEPS, PROMPTS, GROUP = 41, 256, 32
PARAMETERS = {
    "seed": 7, "prompts_per_step": PROMPTS, "group_size": GROUP, **ResamplingSettings().model_dump(exclude={"selector"})
}  # fmt: skip
GOAL = 0.3


def main() -> None:
    """Make the epochs, measure along the way and tell."""
    asked = options(__doc__ or "")
    measured = (1, 10) if asked.quick else (1, 10, 30)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as directory:
        history = RunHistory(Path(directory) / "bench", "bench")
        history.create()
        first: dict[str, float] = {}
        for epoch in range(measured[-1]):
            _write_epoch(history, epoch)
            seconds = _timed(lambda epoch=epoch: record_visits(history, stage=1, epoch=epoch), 1)  # type: ignore[misc]
            if epoch + 1 in measured:
                figures += _measure(history, epoch, seconds, first)
    tell(figures, asked)


def _measure(history: RunHistory, epoch: int, recording: float, first: dict[str, float]) -> list[Figure]:
    """Figures after `epoch`; the references are those of the first epoch."""
    after = f"after {epoch + 1} epochs"
    figures = [Figure(f"visits recorded, {after}", recording, "s", first.setdefault("visits", recording))]
    for name in ["history", *[name for name in selector_names() if name != "history"]]:
        rule = load_rule(name)
        took = _timed(lambda rule=rule: select(history, rule, PARAMETERS, stage=1, epoch=epoch), 7)  # type: ignore[misc]
        goal = ("<= 0.3, flat", took <= GOAL) if name == "history" else (None, None)
        figures.append(Figure(f"{name}, {after}", took, "s", first.setdefault(name, took), *goal))
    return figures


def _timed(work: Callable[[], object], repetitions: int) -> float:
    """Best seconds: what else the machine does only adds to them."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _write_epoch(history: RunHistory, epoch: int) -> None:
    """The epoch's index files and decisions, as a run would leave them."""
    random = np.random.default_rng(epoch)
    rates = random.beta(0.5, 0.5, STEPS * PROMPTS)
    prompts = np.array([f"{i:016x}" for i in range(STEPS * PROMPTS)])
    for step in range(STEPS):
        ids = np.repeat(np.arange(step * PROMPTS, (step + 1) * PROMPTS), GROUP)
        accuracy = (random.random(len(ids)) < rates[ids]).astype(float)
        given = {"prompt_id": prompts[ids], "accuracy": accuracy, "reward": accuracy}
        rows = conform(INDEX, _filled(given, len(ids)), {"run": "bench", "stage": 1, "epoch": epoch, "step": step})
        path = history.directory / f"index/run=bench/stage=1/epoch={epoch}/step-{step:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(path, rows)
    nulls = dict.fromkeys(("pass_rate", "step", "position", "weight", "last_stage", "last_epoch"))
    told = {"bucket": "new", "reason": "bench", "graded": 0, "correct": 0, "selector": "bench", "visits": epoch}
    decisions = [{"prompt_id": p, "domain": "math", "difficulty": 1, "keep": True, **told, **nulls} for p in prompts]
    history.publish("decisions", decisions, stage=1, epoch=epoch)


def _filled(given: dict[str, Any], rows: int) -> pa.Table:
    """The columns of an index file; those not given hold their position, "stop", or 1."""
    columns = {}
    for field in INDEX.schema:
        if field.name in INDEX.key:
            continue
        text, whole = pa.types.is_string(field.type), np.arange(rows)
        default = np.full(rows, "stop") if text else whole if field.name in ("position", "row") else np.ones(rows)
        columns[field.name] = pa.array(given.get(field.name, default)).cast(field.type)
    return pa.table(columns)


if __name__ == "__main__":
    main()
