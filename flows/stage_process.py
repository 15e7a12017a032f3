"""The process of one flow run, as a worker starts it: `python -m flows.stage_process`.

It is Prefect's own engine, which outlives its worker. A worker reads what its processes print; when it dies, the next
line that one of them prints would end it too. Here such lines are lost instead, which the flow run's log keeps anyway.
"""

import io
import runpy
import sys
from typing import Any


class _Outliving(io.FileIO):
    """An output whose reader may go away."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def outliving(descriptor: int) -> io.TextIOWrapper:
    """A text output at a descriptor, on which what nobody reads is lost."""
    raw = _Outliving(descriptor, "w", closefd=False)
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", errors="replace", line_buffering=True)


if __name__ == "__main__":
    sys.stdout, sys.stderr = outliving(1), outliving(2)  # before anything takes hold of them
    runpy.run_module("prefect.engine", run_name="__main__")
