"""A trainer whose work is done by a group of processes, which torchrun starts and which end with their owner."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.checkpoints import Progress
from srpo_core.policy.errors import NotFiniteError, PolicyError
from srpo_core.policy.ranks.batches import write_batch
from srpo_core.settings.parallel import ParallelSettings
from srpo_core.settings.update import UpdateSettings

END_SECONDS = 10.0
_TOLD = re.compile(r"^srpo rank (\d+): (.*)$", re.MULTILINE)
_ENDED = re.compile(r"rank\s*: (\d+) \(local_rank: \d+\)\s*exitcode\s*: (-?\d+)")


class RankGroup:
    """Makes updates as `Trainer` does, by `settings.parallel.size` processes; each holds its share of the policy."""

    def __init__(
        self,
        checkpoint: Path,
        settings: UpdateSettings,
        *,
        temperature: float,
        device: str,
        threads: int,
        base: Path,
        longest: int | None = None,
        same_code: bool = True,
        reference: Path | None = None,
        exchange: Path,
        log: Path,
    ) -> None:
        """Start the group from `checkpoint`; what else the update needs is as for `Trainer`.

        Batches go through files in `exchange`, a directory that every machine sees. What the processes print goes to
        `log`. Raises PolicyError when the group does not start.
        """
        self.operations = 0.0
        """Floating point operations of the last update, in all processes."""
        self.skipped_operations = 0.0
        """What the graded rollouts that were left out would have cost, in the same measure."""
        self._exchange, self._log, self._size = exchange, log, settings.parallel.size
        with log.open("wb") as output:
            self._process = start(settings.parallel, node=0, threads=threads, output=output, stdout=subprocess.PIPE)
        try:
            self.progress = self._do(
                "open",
                checkpoint=str(checkpoint.absolute()),
                base=str(base.absolute()),
                longest=longest,
                same_code=same_code,
                reference=str(reference.absolute()) if reference is not None else None,
                settings=settings.model_dump(mode="json"),
                temperature=temperature,
                device=device,
                threads=threads,
            )[0]
        except BaseException:
            self.close()
            raise

    def update(self, batch: RolloutBatch, *, seed: int) -> dict[str, float]:
        """As `Trainer.update`. Raises NotFiniteError as it does, PolicyError when a process
        ended or could not do it; the group is then gone."""
        return self._with_batch("update", batch, seed=seed)

    def leave_out(self, batch: RolloutBatch) -> dict[str, float]:
        """As `Trainer.leave_out`."""
        return self._with_batch("leave_out", batch)

    def weights(self) -> None:
        """As `Trainer.weights`: no process here has them."""

    def save(self, directory: Path) -> None:
        """As `Trainer.save`: every process writes its share into `directory`."""
        self._do("save", directory=str(directory.absolute()))

    def close(self) -> None:
        """End every process of the group."""
        end(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_batch(self, what: str, batch: RolloutBatch, **values: Any) -> dict[str, float]:
        path = self._exchange / f"batch-{self.progress.version:06d}.npz"
        write_batch(path, batch)
        self.progress, reply = self._do(what, batch=str(path.absolute()), **values)
        path.unlink()
        self.operations, self.skipped_operations = reply["operations"], reply["skipped_operations"]
        metrics: dict[str, float] = reply["metrics"]
        return metrics

    def _do(self, what: str, **values: Any) -> tuple[Progress, dict[str, Any]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write((json.dumps({"do": what} | values) + "\n").encode())
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except (OSError, ValueError):  # the pipe's other end is gone, or was closed here when it went
            line = b""
        reply: dict[str, Any] = json.loads(line) if line else {"error": None}
        if "error" in reply:
            self.close()
            if "tensors" in reply:
                raise NotFiniteError(reply["tensors"], reply["rows"])
            raise PolicyError(reply["error"] or self._what_happened())
        return Progress(**reply["progress"]), reply

    def _what_happened(self) -> str:
        """Why the group ended without a word, from its log."""
        return (
            f"the {self._size} processes that make updates ended: {_reason(self._log.read_text(errors='replace'))}; "
            f"nothing of the step was published, `srpo resume` goes on from the last version (log: {self._log})"
        )


def start(
    parallel: ParallelSettings, *, node: int, threads: int, output: IO[bytes], stdout: int | None = None
) -> subprocess.Popen[bytes]:
    """torchrun with the processes of one machine; `output` gets what they print, `stdout` the replies.

    Out of the terminal's reach: Ctrl-C is its owner's to answer. It ends when its standard input closes.
    """
    meeting = ["--standalone"]
    if parallel.endpoint is not None:
        host, _, port = parallel.endpoint.rpartition(":")
        meeting = ["--node-rank", str(node), "--master-addr", host, "--master-port", port]
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", str(parallel.nodes)]
    command += ["--nproc-per-node", str(parallel.processes), *meeting, "-m", "srpo_core.policy.ranks.worker"]
    return subprocess.Popen(
        command,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.PIPE,
        stdout=stdout if stdout is not None else output,
        stderr=output,
        start_new_session=True,
    )


def join(parallel: ParallelSettings, *, node: int, threads: int, log: Path) -> None:
    """This machine's processes of one group, from its start to its end; what they print goes to `log`."""
    with log.open("wb") as output:
        process = start(parallel, node=node, threads=threads, output=output)
    try:
        process.wait()
    finally:
        end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a group that `start` started, and return when it has ended."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(BrokenPipeError):  # what was left to write has no reader any more
                stream.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        # With several machines torchrun waits for the others' ends; its own processes have seen the pipe close.
        process.kill()
        process.wait()


def _reason(log: str) -> str:
    """What a group's log says of its end."""
    if told := _TOLD.search(log):
        return f"rank {told[1]}: {told[2]}"
    # torchrun ends the others when one has died, and tells of all; what was first stands under this heading.
    if ended := _ENDED.search(log.rpartition("Root Cause")[2]):
        rank, status = int(ended[1]), int(ended[2])
        return f"rank {rank} was killed by {signal.Signals(-status).name}" if status < 0 else f"rank {rank} failed"
    lines: Sequence[str] = log.strip().splitlines()
    return lines[-1] if lines else "without a word"
