"""What a run must be at its end, however often it was killed: the undisturbed one, each step once, none rewritten."""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.chaos.moments import published
from flows.runs import Run
from storage.tables import TABLES

_MEASURED = ("timing_s/", "perf/", "step_time")

# What finished epochs had to do, step by step, and what is committed of it: the rollouts, the version learned from
# them, and what the update itself counted in what it learned from.
_STEPS = """
    WITH planned AS (
        SELECT e.stage, e.epoch, unnest(range(e.steps)) AS step, e.first_version
        FROM epochs AS e JOIN transitions AS t USING (stage, epoch)
    ), sampled AS (
        SELECT stage, epoch, step, sum(completion_tokens) AS tokens, avg(reward) AS reward
        FROM rollouts WHERE used GROUP BY ALL
    ), learned AS (
        SELECT stage, epoch, step, count(*) AS times, max(version) AS version FROM policies WHERE stage > 0 GROUP BY ALL
    ), counted AS (
        SELECT stage, epoch, step, count(*) FILTER (WHERE name = 'reward') AS times,
               max(value) FILTER (WHERE name = 'num_tokens') AS tokens,
               max(value) FILTER (WHERE name = 'reward') AS reward
        FROM metrics WHERE kind = 'update' GROUP BY ALL
    )
    SELECT stage, epoch, step, learned.version, first_version + step + 1 AS next_version,
           sampled.tokens, counted.tokens AS learned_tokens, sampled.reward, counted.reward AS learned_reward,
           greatest(learned.times, counted.times) AS times
    FROM planned LEFT JOIN sampled USING (stage, epoch, step) LEFT JOIN learned USING (stage, epoch, step)
    LEFT JOIN counted USING (stage, epoch, step)
    ORDER BY ALL
"""


def tables(run: Run) -> dict[str, list[Any]]:
    """Every row of every table, but for measured times. What is not a number is equal to itself here."""
    history = run.history
    every = {name: history.read(name).to_pylist() for name in TABLES if name != "rollouts"}
    every["metrics"] = [row for row in every["metrics"] if not row["name"].startswith(_MEASURED)]
    every["rollouts"] = history.sql("FROM trajectories ORDER BY stage, epoch, step, position").to_pylist()
    return {name: [_comparable(row) for row in rows] for name, rows in every.items()}


def _comparable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _comparable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_comparable(each) for each in value]
    return "not a number" if isinstance(value, float) and math.isnan(value) else value


def policies(run: Run) -> dict[str, bytes]:
    """Every file of every policy version that is kept."""
    root = run.directory / "policies"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def differences(one: Run, other: Run) -> list[str]:
    """The tables and the policies' files in which two runs differ: none, when one ended like the other."""
    mine, theirs = tables(one), tables(other)
    bytes_of_mine, bytes_of_theirs = policies(one), policies(other)
    files = sorted(bytes_of_mine.keys() | bytes_of_theirs.keys())
    return [f"table {name}" for name in mine if mine[name] != theirs[name]] + [
        f"policies/{file}" for file in files if bytes_of_mine.get(file) != bytes_of_theirs.get(file)
    ]


def missing_steps(run: Run) -> list[str]:
    """Steps of finished epochs without rollouts, without an update, or without the version that follows from them."""
    return [
        _step(row)
        for row in run.history.sql(_STEPS).to_pylist()
        if row["tokens"] is None or row["learned_tokens"] is None or row["version"] != row["next_version"]
    ]


def repeated_steps(run: Run) -> list[str]:
    """Steps that were published as learned more than once."""
    return [_step(row) for row in run.history.sql(_STEPS).to_pylist() if (row["times"] or 0) > 1]


def steps_from_other_rollouts(run: Run) -> list[str]:
    """Steps whose update counted other tokens, or another mean reward, than their committed rollouts have."""
    rows = [row for row in run.history.sql(_STEPS).to_pylist() if None not in (row["tokens"], row["learned_tokens"])]
    return [
        _step(row)
        for row in rows
        if row["tokens"] != row["learned_tokens"] or abs(row["reward"] - row["learned_reward"]) > 1e-9
    ]


def written_too_early(run: Run) -> list[str]:
    """Files older than what they follow from: versions than their rollouts, what was sampled than its version."""
    written = {str(path.relative_to(run.directory)): path.stat().st_mtime_ns for path in published(run.directory)}
    row_of: dict[int, str] = {}
    follows: list[tuple[str, str]] = []  # a file, and one that follows from it
    for each in run.history.read("policies").to_pylist():
        place = f"run={run.name}/stage={each['stage']}/epoch={each['epoch']}"
        row_of[each["version"]] = f"tables/policies/{place}/version-{each['version']:06d}.parquet"
        if each["stage"]:
            index = f"index/{place}/step-{each['step']:06d}.parquet"
            follows.append((index, row_of[each["version"]]))
    for each in run.history.sql("SELECT DISTINCT stage, epoch, step, policy_version FROM rollouts").to_pylist():
        step = f"data/run={run.name}/stage={each['stage']}/epoch={each['epoch']}/step={each['step']}/"
        follows += [(row_of.get(each["policy_version"], ""), name) for name in written if name.startswith(step)]
    for each in run.history.sql("SELECT DISTINCT stage, epoch, policy_version FROM evaluations").to_pylist():
        for table in ("evaluations", "evaluation_rollouts"):
            rows = f"tables/{table}/run={run.name}/stage={each['stage']}/epoch={each['epoch']}/rows.parquet"
            follows.append((row_of.get(each["policy_version"], ""), rows))
    there = [(first, later) for first, later in follows if first in written and later in written]
    return [f"{later} before {first}" for first, later in there if written[first] > written[later]]


class Witness:
    """Remembers what was committed at each kill, to see that none of it was ever written again."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self._seen: dict[str, tuple[int, int, bytes]] = {}

    def look(self, run: Path) -> list[str]:
        """What changed or vanished of what was committed when it looked last; policies may be pruned."""
        now = {str(path.relative_to(run)): _facts(path) for path in published(run)}
        kept: dict[str, tuple[int, int, bytes]] = {}
        for version in run.glob("policies/version-*"):
            with suppress(FileNotFoundError):  # it is being pruned at this moment
                kept |= {str(path.relative_to(run)): _facts(path) for path in version.iterdir()}
        changed = [name for name, facts in self._seen.items() if (now | kept).get(name, facts) != facts]
        changed += [name for name in self._seen if name not in now and not name.startswith("policies/")]
        self._seen = now | kept
        return changed


def _facts(path: Path) -> tuple[int, int, bytes]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, path.read_bytes()


def _step(row: dict[str, Any]) -> str:
    return f"stage {row['stage']}, epoch {row['epoch']}, step {row['step']}"
