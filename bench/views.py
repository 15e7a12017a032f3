"""How long the history's views take over a large store: 10,000 steps of 1,024 rollouts, one index file a step.

The index files are real ones, each with its own prompts and grades; the shards are hard links to one file, since no
view reads more of them than it must. `--quick` makes 1,000 steps. Times are wall seconds of one query, files cached.
"""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.figures import Figure, options, tell
from bench.synthetic import filled
from storage.history import RunHistory
from storage.readonly import ReadOnlyStore, open_readonly
from storage.tables import INDEX, SHARDS, write_parquet

STEPS_PER_EPOCH, PROMPTS, SAMPLES = 100, 64, 16  # one epoch: 6,400 prompts
ROLLOUTS = PROMPTS * SAMPLES
# Over all of the history: what a person waits for. Of one step, prompt or epoch: what must not grow with the history.
WHOLE = (
    "SELECT count(*), avg(reward) FROM rollouts",
    "FROM prompt_stats",
    "FROM step_stats",
    "FROM epoch_stats",
    "FROM zero_variance",
    "FROM bucket_transitions",
    "FROM length_percentiles",
    "FROM staleness",
    "FROM stage_progress",
    "SELECT kind, prompt_id FROM flips",
)
PART = (
    "FROM step_stats WHERE stage = 1 AND epoch = 3 AND step = 7",
    "FROM prompt_stats WHERE stage = 1 AND epoch = 3",
    "FROM trajectories WHERE stage = 1 AND epoch = 3 AND step = 7",
    "FROM search('b', 1, 3) LIMIT 20",
    "FROM rollouts_of('00000000000000ff')",
    "FROM best_and_worst('00000000000000ff')",
)


def main() -> None:
    """Make the store, time every view, and tell."""
    asked = options(__doc__ or "")
    steps = 1_000 if asked.quick else 10_000
    with tempfile.TemporaryDirectory(prefix="srpo-views-") as directory:
        history = make_store(Path(directory) / "r1", steps)
        start = time.perf_counter()
        with open_readonly(history.directory) as store:
            figures = [Figure(f"open ({steps:,} steps)", time.perf_counter() - start, "s")]
            figures += [Figure(query, _seconds(store, query), "s") for query in (*WHOLE, *PART)]
    tell(figures, asked)


def make_store(directory: Path, steps: int) -> RunHistory:
    """A run of `steps` committed steps in epochs of 100, each epoch over the same prompts."""
    history = RunHistory(directory, directory.name)
    history.create()
    random = np.random.default_rng(0)
    shard = directory / "_tmp" / "shard.parquet"
    write_parquet(shard, _shard_rows(history.run))
    for step in range(steps):
        epoch, place = divmod(step, STEPS_PER_EPOCH)
        key = f"run={history.run}/stage=1/epoch={epoch}"
        wide = directory / "data" / key / f"step={place}" / "shard-000.parquet"
        wide.parent.mkdir(parents=True)
        os.link(shard, wide)
        index = directory / "index" / key / f"step-{place:06d}.parquet"
        index.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(index, _index_rows(history.run, epoch, place, wide.relative_to(directory), random))
    for epoch in range(-(-steps // STEPS_PER_EPOCH)):
        plan = {"prompts": STEPS_PER_EPOCH * PROMPTS, "steps": STEPS_PER_EPOCH, "first_version": 0, "selector": "x"}
        history.publish("epochs", [plan], stage=1, epoch=epoch)
    return history


def _index_rows(run: str, epoch: int, step: int, shard: Path, random: np.random.Generator) -> pa.Table:
    prompts = [f"{step * PROMPTS + i:016x}" for i in range(PROMPTS)]
    skill = np.repeat(random.beta(0.5, 0.5, PROMPTS), SAMPLES)
    accuracy = (random.random(ROLLOUTS) < skill).astype(np.float64)
    order = np.arange(ROLLOUTS)
    columns = {
        **{"run": [run] * ROLLOUTS, "stage": np.ones(ROLLOUTS, int), "epoch": np.full(ROLLOUTS, epoch)},
        **{"step": np.full(ROLLOUTS, step), "position": order, "prompt_id": np.repeat(prompts, SAMPLES)},
        **{"domain": ["math"] * ROLLOUTS, "difficulty": order // SAMPLES % 8, "sample": order % SAMPLES, "seed": order},
        **{"policy_version": np.full(ROLLOUTS, epoch * STEPS_PER_EPOCH + step), "prompt_tokens": np.full(ROLLOUTS, 99)},
        "completion_tokens": random.integers(100, 4000, ROLLOUTS),
        "finish_reason": np.where(random.random(ROLLOUTS) < 0.1, "length", "stop"),
        **{"verdict": np.where(accuracy > 0, "right", "wrong_answer"), "accuracy": accuracy},
        **{"format": np.ones(ROLLOUTS), "reward": accuracy + 0.1, "used": np.ones(ROLLOUTS, bool)},
        **{"file": [shard.as_posix()] * ROLLOUTS, "row": order},
    }
    return filled(INDEX.schema, columns, ROLLOUTS)


def _shard_rows(run: str) -> pa.Table:
    """Rows for every shard; the key columns and the prompts are not those of its step, and no view reads them."""
    narrow = _index_rows(run, 0, 0, Path("x"), np.random.default_rng(1)).drop_columns(["file", "row"])
    texts = [f"<think>{'a b c ' * 20}</think><answer>{i}</answer>" for i in range(ROLLOUTS)]
    tokens = [[1, 2, 3, 4]] * ROLLOUTS
    wide = {"prompt": ["solve it"] * ROLLOUTS, "completion": texts, "prompt_token_ids": tokens, "token_ids": tokens}
    for name, values in {**wide, "logprobs": [[-0.5] * 4] * ROLLOUTS}.items():
        narrow = narrow.append_column(SHARDS.schema.field(name), pa.array(values, SHARDS.schema.field(name).type))
    return narrow


def _seconds(store: ReadOnlyStore, query: str) -> float:
    start = time.perf_counter()
    store.query(query)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
