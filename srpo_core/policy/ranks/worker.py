"""One of the processes that make updates together: `torchrun … -m srpo_core.policy.ranks.worker`.

The first process reads a command a line on its standard input, as JSON, and tells the others; when all have done it,
it writes one line of JSON to its standard output. Batches and checkpoints are files. The standard input also tells
that whoever started the group is gone: it is a pipe, and when its other end closes, every process here ends at once.

    {"do": "open", …}                             begin from a checkpoint
    {"do": "update", "batch": …, "seed": …}       make the next version; the answer has its metrics
    {"do": "leave_out", "batch": …}               make one that is equal to the last
    {"do": "save", "directory": …}                write it

Every answer tells how far the training has come. A command that fails ends the group: its processes may have come
apart.
"""

import json
import os
import select
import sys
import threading
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import torch
import torch.distributed as dist

from srpo_core.policy.errors import NotFiniteError, PolicyError
from srpo_core.policy.ranks.batches import read_batch
from srpo_core.policy.ranks.processes import Ranks
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

TOLD = "srpo rank"
"""Begins a line of the log that tells why a process ended."""
_IDLE = timedelta(days=7)  # commands come when rollouts do; what does not come for this long never will


def main() -> None:
    """Do what is commanded until the pipe closes."""
    replies = _own_output()
    threading.Thread(target=_end_with_the_pipe, daemon=True).start()
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        _obey(ranks, replies)
    except (PolicyError, OSError, torch.OutOfMemoryError) as error:
        print(f"{TOLD} {ranks.rank}: {error}", file=sys.stderr, flush=True)
        if ranks.leads:
            told = {"tensors": error.tensors, "rows": error.rows} if isinstance(error, NotFiniteError) else {}
            _reply(replies, {"error": str(error)} | told)
        os._exit(1)  # the others may wait in a collective, and so would an orderly end


def _obey(ranks: Ranks, replies: IO[str]) -> None:
    control = dist.new_group(backend="gloo", timeout=_IDLE)
    trainer: Trainer | None = None
    while True:
        command = _next_command(ranks, control)
        reply: dict[str, Any] = {}
        if command["do"] == "open":
            trainer = _open(command, ranks)
        assert trainer is not None, "the first command is `open`"
        if command["do"] == "update":
            reply["metrics"] = trainer.update(read_batch(Path(command["batch"])), seed=command["seed"])
        elif command["do"] == "leave_out":
            reply["metrics"] = trainer.leave_out(read_batch(Path(command["batch"])))
        elif command["do"] == "save":
            trainer.save(Path(command["directory"]))
        if ranks.leads:
            cost = {"operations": trainer.operations, "skipped_operations": trainer.skipped_operations}
            _reply(replies, {"progress": asdict(trainer.progress)} | cost | reply)


def _open(command: dict[str, Any], ranks: Ranks) -> Trainer:
    torch.set_num_threads(command["threads"])
    device = command["device"]
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return Trainer(
        Path(command["checkpoint"]),
        UpdateSettings.model_validate(command["settings"]),
        temperature=command["temperature"],
        device=device,
        base=Path(command["base"]),
        longest=command["longest"],
        same_code=command["same_code"],
        reference=Path(command["reference"]) if command["reference"] else None,
        ranks=ranks,
    )


def _next_command(ranks: Ranks, control: dist.ProcessGroup) -> dict[str, Any]:
    """The next line of the first process's input, in every process. Ends the process at the end of the input."""
    line = sys.stdin.buffer.readline() if ranks.leads else b""
    if ranks.leads and not line:
        os._exit(0)
    size = torch.tensor([len(line)])
    dist.broadcast(size, 0, group=control)
    told = (
        torch.frombuffer(bytearray(line), dtype=torch.uint8)
        if ranks.leads
        else torch.empty(int(size), dtype=torch.uint8)
    )
    dist.broadcast(told, 0, group=control)
    command: dict[str, Any] = json.loads(bytes(told.tolist()))
    return command


def _own_output() -> IO[str]:
    """The standard output for replies alone; what else is printed goes to the log."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return replies


def _reply(replies: IO[str], values: dict[str, Any]) -> None:
    replies.write(json.dumps(values) + "\n")
    replies.flush()


def _end_with_the_pipe() -> None:
    """End this process when nobody holds the other end of its standard input any more."""
    poll = select.poll()
    poll.register(0, 0)  # hang-ups alone: what is to be read is the commands' reader's
    poll.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
