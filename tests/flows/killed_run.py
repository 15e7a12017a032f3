"""Run the command again and again, each time in a process that is killed with SIGKILL at a named moment.

    python killed_run.py KILLS.json FIRST-ARGUMENTS... -- NEXT-ARGUMENTS...

KILLS.json is a list of [moment, call]: the process dies at the call-th time (from 1) that the moment comes. The first
process runs `srpo FIRST-ARGUMENTS`, the others `srpo NEXT-ARGUMENTS`. The moments are places in the real code; nothing
but the kill is added. The processes are forked from one that has imported everything, which saves seconds each.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flows.cli import main
from flows.prefect_server import quiet_prefect

quiet_prefect()  # before anything imports Prefect, as the command itself does

import torch

import flows.policies
import flows.srpo
import flows.update
import storage.history


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _before(owner: Any, name: str, call: int, when: Callable[..., bool] = lambda *_, **__: True) -> None:
    """Die before the chosen call of `owner.name`, among the calls for which `when` holds."""
    original, calls = getattr(owner, name), iter(range(1, 1_000_000))

    def wrapped(*arguments: Any, **options: Any) -> Any:
        if when(*arguments, **options) and next(calls) == call:
            _die()
        return original(*arguments, **options)

    setattr(owner, name, wrapped)


def _torn_shard(call: int) -> None:
    """Die when half of a shard is in its temporary."""
    original, calls = storage.history.write_parquet, iter(range(1, 1_000_000))

    def write(path: Path, rows: Any, metadata: Any = None) -> None:
        original(path, rows, metadata)
        if "token_ids" in rows.column_names and next(calls) == call:
            os.truncate(path, path.stat().st_size // 2)
            _die()

    storage.history.write_parquet = write


def _publishing(table: str) -> Callable[[int], None]:
    def before(call: int) -> None:
        _before(storage.history.RunHistory, "publish", call, lambda _history, which, *_rest, **_key: which == table)

    return before


def _before_a_refill(call: int) -> None:
    planned = 3  # shards of a planned step of tests/flows/tiny.yaml, at most
    _before(storage.history.RunHistory, "write_shard", call, lambda *arguments: arguments[4] >= planned)


def _before_the_last_pruning(call: int) -> None:
    last = "version-000013"  # is removed once version 15 of tests/flows/tiny.yaml, its last, is published
    _before(flows.policies, "remove_directory", call, lambda directory, _: directory.name == last)


MOMENTS: dict[str, Callable[[int], None]] = {
    "in the middle of a shard": _torn_shard,
    "before a refill": _before_a_refill,
    "between shards and index": lambda call: _before(storage.history.RunHistory, "commit_step", call),
    "in the update": lambda call: _before(torch.optim.AdamW, "step", call),
    "before the checkpoint is published": lambda call: _before(flows.update, "publish_directory", call),
    "between the checkpoint's two phases": lambda call: _before(flows.update, "publish_row", call),
    "while pruning": lambda call: _before(flows.policies, "remove_directory", call),
    "before the last pruning": _before_the_last_pruning,
    "in resampling": _publishing("decisions"),
    "between decisions and plan": _publishing("epochs"),
    "at the transition": _publishing("transitions"),
    "in an evaluation": _publishing("evaluations"),
}


def _run_killed(moment: str, call: int, arguments: list[str]) -> None:
    child = os.fork()
    if child == 0:
        MOMENTS[moment](call)
        sys.argv = ["srpo", *arguments]
        main()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        sys.exit(f"the run was not killed {moment} (call {call}); it ended with status {status}")


if __name__ == "__main__":
    kills = json.loads(sys.argv[1])
    cut = sys.argv.index("--")
    arguments, following = sys.argv[2:cut], sys.argv[cut + 1 :]
    for moment, call in kills:
        _run_killed(moment, call, arguments)
        arguments = following
