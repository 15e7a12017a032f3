"""The history: a paper-size step written and read beside JSONL and pyarrow's default Parquet; selector, SQL, torture.

The step is 8,192 rollouts of 18 M tokens (see bench/synthetic.py); --quick takes a quarter of it. MB are those of the
rows in memory (Arrow), the same for every way. One thread. Our times contain checks, checksums, fsync and commit; those
of JSONL (json.dumps and json.loads of rows that are Python lists already, and into such) and of default Parquet do not.
The selector and the group-by read the index files of up to 30 epochs of 328 shards, 41 steps each; --quick takes 3.
Torture: see bench/torture.py; the reference is a writer that writes under the final name.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.figures import Figure, options, tell
from bench.synthetic import Synthetic, filled, narrow_columns
from bench.torture import NaiveHistory, torture
from storage.catalog import connect
from storage.compaction import compact
from storage.history import RunHistory
from storage.selectors import epoch_visits, load_rule, record_visits, select
from storage.tables import INDEX, PUBLISHED, conform, write_parquet

GROUPS, SIZE, TOKENS = 32, 32, 2200  # of a shard; a step has 8 shards
STEPS, SHARDS_A_STEP = 41, 8  # of an epoch: 328 shards, 10,496 prompts, 335,872 rollouts
PROMPTS = STEPS * SHARDS_A_STEP * GROUPS
BY_PROMPT = """SELECT prompt_id, count(*) AS rollouts, count(*) FILTER (WHERE accuracy >= 1 - 1e-6) AS correct,
avg(reward) AS reward FROM rollouts GROUP BY prompt_id"""


class Clock:
    """Sums up what one way took: wall and CPU seconds."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.wall = self.cpu = 0.0

    def time(self, work: Callable[[], object]) -> None:
        """Do the work and add what it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall += time.perf_counter() - wall
        self.cpu += time.process_time() - cpu


def step_figures(directory: Path, shards: int) -> list[Figure]:
    """Write and read one step, shard by shard in turn with the other ways."""
    history, source = RunHistory(directory / "step", "r1"), Synthetic(seed=1)
    history.create()
    ours, parquet, jsonl, read_parquet, read_jsonl = (Clock() for _ in range(5))
    history.write_shard(1, 0, 1, 0, source.shard(0, 1, SIZE, TOKENS))  # warms up
    raw = tokens = 0
    for shard in range(shards):
        rows = source.shard(shard * GROUPS, GROUPS, SIZE, TOKENS)
        raw, tokens = raw + rows.nbytes, tokens + int(rows["completion_tokens"].to_numpy().sum())
        lists, line_file, plain = rows.to_pylist(), directory / f"{shard}.jsonl", directory / f"{shard}.parquet"
        ours.time(lambda shard=shard, rows=rows: history.write_shard(1, 0, 0, shard, rows))  # type: ignore[misc]
        parquet.time(lambda rows=rows, plain=plain: pq.write_table(rows, plain))  # type: ignore[misc]
        jsonl.time(lambda lists=lists, to=line_file: _write_lines(lists, to))  # type: ignore[misc]
        del lists
        read_parquet.time(lambda plain=plain: pq.read_table(plain))  # type: ignore[misc]
        read_jsonl.time(lambda of=line_file: [json.loads(line) for line in of.open()])  # type: ignore[misc]
    ours.time(lambda: history.commit_step(1, 0, 0, shards))
    read, tensors = Clock(), Clock()
    _tensors(history)  # warms up
    for _ in range(3):
        read.time(lambda: history.read_step(1, 0, 0))
        tensors.time(lambda: _tensors(history))
    mb, rate = raw / 1e6, 3 * tokens / tensors.cpu / 1e6
    size = _bytes(directory / "step" / "data", "**/step=0/shard-*.parquet") / tokens
    lines, default = (_bytes(directory, kind) / tokens for kind in ("*.jsonl", "*.parquet"))
    written, lines_written, was_read, lines_read = (mb / c.wall for c in (ours, jsonl, read, read_jsonl))
    was_read *= 3
    return [
        Figure("step written, beside JSONL", written, "MB/s", lines_written, ">= 5 x", written >= 5 * lines_written),
        Figure("step written, beside default Parquet", written, "MB/s", mb / parquet.wall),
        Figure("step read, beside JSONL", was_read, "MB/s", lines_read, ">= 5 x", was_read >= 5 * lines_read),
        Figure("step read, beside default Parquet", was_read, "MB/s", mb / read_parquet.wall),
        Figure("step stored, beside JSONL", size, "bytes/token", lines, "<= 6.8", size <= 6.8),
        Figure("step stored, beside default Parquet", size, "bytes/token", default),
        Figure("step to flat torch tensors", rate, "M tokens/s a core", None, ">= 15", rate >= 15),
    ]


def history_figures(directory: Path, epochs: tuple[int, int, int]) -> list[Figure]:
    """The selector and the group-by over index files and decisions alone: neither reads a shard."""
    history, seconds = RunHistory(directory / "epochs", "r1"), []
    history.create()
    steps = [_step_rows(step) for step in range(STEPS)]
    for epoch in range(epochs[-1]):
        for step, rows in enumerate(steps):
            path = history.directory / f"index/run=r1/stage=1/epoch={epoch}/step-{step:06d}.parquet"
            path.parent.mkdir(exist_ok=True, parents=True)
            write_parquet(path, conform(INDEX, rows, {"run": "r1", "stage": 1, "epoch": epoch, "step": step}))
        history.publish("decisions", _decisions(), stage=1, epoch=epoch)
        record_visits(history, stage=1, epoch=epoch)
        if epoch + 1 in epochs:
            seconds.append(_median(7, partial(_select, history, epoch)))
    figures = [
        Figure(f"`history` selector after {count} epochs", took, "s", seconds[0], "<= 0.3, flat", took <= 0.3)
        for count, took in zip(epochs, seconds, strict=True)
    ]
    rollouts = epochs[-1] * PROMPTS * SIZE
    took = _median(5, lambda: history.sql(BY_PROMPT))
    goal = ("<= 1", took <= 1) if rollouts >= 10e6 else (None, None)
    return [*figures, Figure(f"group by prompt, {rollouts / 1e6:.1f} M rollouts", took, "s", None, *goal)]


def _select(history: RunHistory, epoch: int) -> None:
    """All that choosing the next epoch's prompts reads and computes."""
    epoch_visits(history, stage=1, epoch=epoch)
    select(history, load_rule("history"), {"seed": 0, "prompts_per_step": 256}, stage=1, epoch=epoch)


def compaction_figures(directory: Path, epochs: int) -> list[Figure]:
    """A group-by over many small steps, 1,000 an epoch, before and after their compaction."""
    history, steps = RunHistory(directory / "steps", "r1"), 1000
    history.create()
    rows = conform(INDEX, _step_rows(0).slice(0, 256), {"run": "r1", "stage": 1, "epoch": 0, "step": 0})
    write_parquet(directory / "step.parquet", rows)
    for epoch in range(epochs):
        folder = history.directory / f"index/run=r1/stage=1/epoch={epoch}"
        folder.mkdir(parents=True)
        for step in range(steps):
            os.link(directory / "step.parquet", folder / f"step-{step:06d}.parquet")
        plan = {"prompts": 1, "steps": steps, "first_version": 0, "selector": "history"}
        history.publish("epochs", [plan], stage=1, epoch=epoch)
        decision = {"decision": "continue", "reason": "", "slope": None, "gain": None, "window": 1, "steps": steps}
        decision["prompts"] = 1
        history.publish("transitions", [decision], stage=1, epoch=epoch)

    def seconds() -> float:
        with connect(history.store) as views:
            return _median(3, lambda: views.sql(BY_PROMPT).to_arrow_table())

    before, start = seconds(), time.perf_counter()
    compact(history)
    took, after = time.perf_counter() - start, seconds()
    name = f"{epochs * steps:,} steps"
    return [
        Figure(f"group by prompt, {name}, compacted and not", after, "s", before),
        Figure(f"compaction of {name}", took, "s"),
    ]


def torture_figures(directory: Path, kills: int) -> list[Figure]:
    """The commit protocol, and the naive writer for as many kills at most."""
    ended = torture(directory / "torture", kills=kills, most_kills=10 * kills, seed=0)
    naive = torture(directory / "naive", kills=8, most_kills=8, seed=0, store=NaiveHistory)
    found = ended.findings
    faults = {
        "torn reads": (found.torn, naive.findings.torn),
        "partial steps": (found.partial, naive.findings.partial),
        "duplicate rollouts": (found.duplicates, naive.findings.duplicates),
        "rows that changed": (found.changed, naive.findings.changed),
    }
    told = f"{ended.kills} kills, {found.polls} polls, {found.steps} steps"
    return [
        *(Figure(f"{name} ({told})", len(a), "", len(b), "0", not a) for name, (a, b) in faults.items()),
        Figure("orphan temporaries left, of those swept", ended.left, "", ended.swept, "0", not ended.left),
        Figure("writers that failed", len(ended.failed), "", None, "0", not ended.failed),
    ]


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory() as name:
        figures = step_figures(Path(name), 2 if asked.quick else 8)
        figures += history_figures(Path(name), (1, 2, 3) if asked.quick else (1, 10, 30))
        figures += compaction_figures(Path(name), 1 if asked.quick else 10)
        figures += torture_figures(Path(name), 10 if asked.quick else 100)
    tell(figures, asked)


def _write_lines(rows: list[dict[str, object]], path: Path) -> None:
    with path.open("w") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def _tensors(history: RunHistory) -> object:
    """A committed step as flat tensors, and where each rollout begins."""
    import torch  # here, since every process of the torture imports this file

    rows = history.read_step(1, 0, 0)
    tokens, logprobs = (rows[name].combine_chunks() for name in ("token_ids", "logprobs"))
    arrays = tokens.values.to_numpy(), logprobs.values.to_numpy(), tokens.offsets.to_numpy()
    return [torch.from_numpy(np.require(array, requirements="W")) for array in arrays]


def _bytes(directory: Path, pattern: str) -> int:
    return sum(path.stat().st_size for path in directory.glob(pattern))


def _step_rows(step: int) -> pa.Table:
    """Narrow rows of one step: 8 shards of whole groups; prompts are the same in every epoch."""
    groups = SHARDS_A_STEP * GROUPS
    random, count = np.random.default_rng(step), groups * SIZE
    shard = np.repeat(np.arange(SHARDS_A_STEP), GROUPS * SIZE)
    given = narrow_columns(random, step * groups, groups, SIZE) | {
        "position": np.arange(count),
        "prompt_tokens": np.full(count, 100),
        "completion_tokens": random.integers(TOKENS // 2, TOKENS * 2, count),
        "file": np.array([f"data/run=r1/stage=1/epoch=0/step={step}/shard-{i:03d}.parquet" for i in range(8)])[shard],
        "row": np.tile(np.arange(GROUPS * SIZE), SHARDS_A_STEP),
    }
    return filled(INDEX.schema, given, count, without=INDEX.key)


def _decisions() -> pa.Table:
    (table,) = (table for table in PUBLISHED if table.name == "decisions")
    given = {
        "prompt_id": np.array([f"{prompt:016x}" for prompt in range(PROMPTS)]),
        "domain": np.repeat("math", PROMPTS),
        "keep": np.repeat(True, PROMPTS),
        "bucket": np.repeat("new", PROMPTS),
    }
    return filled(table.schema, given, PROMPTS, without=table.key)


def _median(repetitions: int, work: Callable[[], object]) -> float:
    seconds = []
    work()  # warms up
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
