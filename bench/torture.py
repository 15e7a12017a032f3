"""The store under torture: writers killed at random moments while others write the same shards and a reader polls.

Four processes write the steps of one run, each shard attempted by two of them at once. No attempt looks whether its
shard is there, and each draws other tokens, as a sampler that was started again does. Any of them is killed by SIGKILL
at a random moment and replaced. A reader polls all the while, in turn through history.duckdb as any DuckDB client and
through views of its own, remembers every row that it ever saw, and looks at every published file.

`NaiveHistory` writes shards under their final names: what the reader must catch.
"""

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import RawValue
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.synthetic import filled, narrow_columns
from storage.catalog import connect
from storage.files import StoreError
from storage.history import RunHistory
from storage.tables import SHARDS, conform, write_parquet

WRITERS = 4  # and as many shards a step: writer w writes the shards w and w + 1
GROUPS, SIZE, TOKENS = 4, 8, 3000  # of a shard
STEP_ROWS = WRITERS * GROUPS * SIZE
_ROWS = "SELECT step, prompt_id, sample, hash(position, seed, completion, token_ids, logprobs) FROM trajectories"
_PATIENCE, _TOO_SLOW = 300.0, -1  # seconds for the writers' last steps on a busy machine, and what is told after it


class NaiveHistory(RunHistory):
    """Writes shards under their final names, as one does first."""

    def write_shard(self, stage: int, epoch: int, step: int, shard: int, rows: pa.Table) -> bool:
        """Write over whatever stands there."""
        key = {"run": self.run, "stage": stage, "epoch": epoch, "step": step}
        folder = self.directory.joinpath("data", *(f"{name}={value}" for name, value in key.items()))
        folder.mkdir(parents=True, exist_ok=True)
        write_parquet(folder / f"shard-{shard:03d}.parquet", conform(SHARDS, rows, key))
        return True


@dataclass
class Findings:
    """What the reader saw: `torn` and the rest must stay empty. Values are examples, for people."""

    polls: int = 0
    steps: int = 0
    torn: list[str] = field(default_factory=list)  # a file, or a poll, that could not be read
    partial: list[str] = field(default_factory=list)  # a step seen with other than all of its rollouts
    duplicates: list[str] = field(default_factory=list)  # a rollout seen twice in one poll
    changed: list[str] = field(default_factory=list)  # a row that differs from what was seen first, or is gone

    @property
    def faults(self) -> list[str]:
        """Everything found."""
        return self.torn + self.partial + self.duplicates + self.changed


@dataclass
class Outcome:
    """How a torture ended."""

    findings: Findings
    kills: int
    swept: int  # orphan temporaries, removed while writers wrote and by the final sweep
    left: int  # temporaries left after the final sweep
    failed: list[int]  # exit statuses of writers that ended badly by themselves


def torture(
    directory: Path, *, kills: int, most_kills: int, seed: int, store: type[RunHistory] = RunHistory
) -> Outcome:
    """Torture a new run in `directory`: `kills` kills, and on until one hit a temporary, to `most_kills` at most.

    When all writers have ended, `srpo history sweep` removes what they left.
    """
    context = multiprocessing.get_context("forkserver")  # a fresh writer is there in hundredths of a second
    context.set_forkserver_preload(["bench.torture"])
    history, dice = RunHistory(directory, "r1"), random.Random(seed)
    history.create()
    last = RawValue("q", 1 << 40)  # the step after which writers end; without a lock, which a killed one would keep

    def start(writer: int) -> tuple[ForkServerProcess, Connection]:
        at_work, tells = context.Pipe(duplex=False)
        process = context.Process(target=write, args=(store, directory, writer, last, tells), daemon=True)
        process.start()
        tells.close()
        return process, at_work

    ours, theirs = context.Pipe()
    reader = context.Process(target=read, args=(directory, theirs), daemon=True)
    reader.start()
    writers = [start(writer) for writer in range(WRITERS)]
    done = swept = orphans = 0
    window = 0.25  # seconds
    failed: list[int] = []
    while done < kills or (not orphans and done < most_kills):
        victim = dice.randrange(WRITERS)
        process, at_work = writers[victim]
        wait([at_work])
        wait([process.sentinel], dice.uniform(0, window))  # the moment of the kill is what is drawn
        failed += _ended_badly(process)
        process.kill()
        process.join()
        done += 1
        if done % kills == 0:  # none was hit: on a busy machine writers take longer to come to it
            window *= 2
        orphans = max(orphans, swept + len(list(history.tmp_root.iterdir())) - WRITERS + 1)  # the living hold one each
        if dice.random() < 0.2:  # under the others' hands
            swept += history.sweep()
        writers[victim] = start(victim)
    last.value = _next_step(history) + 2
    failed += _ends([process for process, _ in writers])
    ours.send("the writers have ended")
    findings = ours.recv()
    reader.join()
    swept += len(list(history.tmp_root.iterdir()))
    _sweep_by_command(directory)
    return Outcome(findings, done, swept, len(list(history.tmp_root.iterdir())), failed)


def _sweep_by_command(directory: Path) -> None:
    command = [sys.executable, "-m", "flows", "history", "sweep", str(directory)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[1])


def write(store: type[RunHistory], directory: Path, writer: int, last: Any, tells: Connection) -> None:
    """Tell that this writer is at work; write its two shards of every step, again until somebody committed the step."""
    history, random_numbers, step = store(directory, "r1"), np.random.default_rng(), 0
    tells.send(True)
    try:
        while step <= last.value:
            if history.is_committed(1, 0, step):
                step += 1
                continue
            for shard in (writer, (writer + 1) % WRITERS):
                history.write_shard(1, 0, step, shard, _rows(random_numbers, shard))
            if all(history.has_shard(1, 0, step, shard) for shard in range(WRITERS)):
                history.commit_step(1, 0, step, WRITERS)
    except StoreError as error:
        sys.exit(1 if store is NaiveHistory else f"a writer ended: {error}")


def read(directory: Path, supervisor: Connection) -> None:
    """Poll until the supervisor says that the writers have ended, once more then, and send it the findings."""
    reader = Reader(RunHistory(directory, "r1"))
    while not supervisor.poll():
        reader.poll()
    reader.poll()
    reader.check_committed_steps()
    supervisor.send(reader.findings)


class Reader:
    """Looks at a run as viewers and the trainer do, and remembers what it saw first."""

    def __init__(self, history: RunHistory) -> None:
        """Look at nothing yet."""
        self.findings = Findings()
        self._history = history
        self._seen: dict[tuple[int, str, int], int] = {}
        self._whole: set[Path] = set()

    def poll(self) -> None:
        """One look at all files and all rows."""
        self.findings.polls += 1
        self._look_at_files()
        try:
            with self._open() as views:
                rows = views.execute(_ROWS).fetchall()
        except (duckdb.Error, StoreError) as error:
            self.findings.torn.append(str(error))
            return
        self._compare({(step, prompt, sample): digest for step, prompt, sample, digest in rows}, len(rows))

    def check_committed_steps(self) -> None:
        """Read every committed step as the trainer does, checksums compared."""
        for step in range(self.findings.steps):
            try:
                self._history.read_step(1, 0, step)
            except StoreError as error:
                self.findings.torn.append(str(error))

    def _open(self) -> duckdb.DuckDBPyConnection:
        if self.findings.polls % 2:
            return duckdb.connect(self._history.directory / "history.duckdb", read_only=True)
        return connect(self._history.directory)

    def _look_at_files(self) -> None:
        """A file under its final name is whole from the first moment on."""
        found = set(self._history.directory.glob("*/run=r1/stage=1/**/*.parquet"))
        for path in sorted(found - self._whole):
            try:
                pq.ParquetFile(path).close()
                self._whole.add(path)
            except (pa.ArrowException, OSError) as error:
                self.findings.torn.append(f"{path}: {error}")

    def _compare(self, rows: dict[tuple[int, str, int], int], count: int) -> None:
        found = self.findings
        if len(rows) < count:
            found.duplicates.append(f"{count} rows of {len(rows)} rollouts")
        sizes: dict[int, int] = {}
        for step, _, _ in rows:
            sizes[step] = sizes.get(step, 0) + 1
        found.partial += [f"step {step} has {size} rollouts" for step, size in sizes.items() if size != STEP_ROWS]
        for key, digest in self._seen.items():
            if rows.get(key) != digest:
                found.changed.append(f"step {key[0]}, prompt {key[1]}, sample {key[2]}")
        for key, digest in rows.items():
            self._seen.setdefault(key, digest)
        found.steps = max(found.steps, len(sizes))


def _rows(random_numbers: np.random.Generator, shard: int) -> pa.Table:
    """One shard of tokens that no other attempt draws."""
    count = GROUPS * SIZE
    tokens, schema = count * TOKENS, SHARDS.schema
    offsets = pa.array(np.arange(count + 1) * TOKENS, pa.int32())
    ids = pa.array(random_numbers.integers(0, 150_000, tokens, dtype=np.int32))
    logprobs = pa.array(-random_numbers.random(tokens, dtype=np.float32))
    given = narrow_columns(random_numbers, shard * GROUPS, GROUPS, SIZE) | {
        "completion_tokens": np.full(count, TOKENS),
        "completion": random_numbers.integers(0, 2**60, count).astype(str),
        "prompt_token_ids": pa.ListArray.from_arrays(
            pa.array(np.zeros(count + 1), pa.int32()), ids[:0], type=schema.field("prompt_token_ids").type
        ),
        "token_ids": pa.ListArray.from_arrays(offsets, ids, type=schema.field("token_ids").type),
        "logprobs": pa.ListArray.from_arrays(offsets, logprobs, type=schema.field("logprobs").type),
    }
    return filled(schema, given, count, without=SHARDS.key)


def _next_step(history: RunHistory) -> int:
    step = 0
    while history.is_committed(1, 0, step):
        step += 1
    return step


def _ends(writers: list[ForkServerProcess]) -> list[int]:
    """Wait for all writers to end; when one ends badly the others need not, and are killed. Gives the bad statuses."""
    living = {process.sentinel: process for process in writers}
    deadline = time.monotonic() + _PATIENCE
    while living and (ended := wait(list(living), deadline - time.monotonic())):
        if bad := [status for sentinel in ended for status in _ended_badly(living.pop(sentinel))]:  # type: ignore[call-overload]
            _kill(living.values())
            return bad
    _kill(living.values())
    return [_TOO_SLOW] * len(living)


def _kill(processes: Iterable[ForkServerProcess]) -> None:
    for process in processes:
        process.kill()
        process.join()


def _ended_badly(process: ForkServerProcess) -> list[int]:
    """Its exit status, if it ended by itself and not with 0."""
    return [process.exitcode] if process.exitcode else []
