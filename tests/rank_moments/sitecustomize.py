"""What happens to one process of a rank group in the middle of a step; Python imports this module by itself.

SRPO_TEST_MOMENT is JSON: {"rank": 1, "call": 3, "file": PATH, "then": "die" or "hang"}. At the call-th forward pass of
that rank `file` is made, or opened for writing where it is a FIFO, and the process is killed with SIGKILL, or stays
where it is for ever. When `file` is there already, and no FIFO, nothing happens. The rest is the real code.
"""

import json
import os
import signal
import stat
import threading
from pathlib import Path
from typing import Any


def _arrange(call: int, file: Path, then: str) -> None:
    from srpo_core.policy.scorer import Scorer

    original, calls = Scorer.forward, iter(range(1, 1_000_000))

    def forward(self: Any, *arguments: Any) -> Any:
        if next(calls) == call:
            file.write_text("here\n")
            if then == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()
        return original(self, *arguments)

    Scorer.forward = forward  # type: ignore[method-assign]


if "SRPO_TEST_MOMENT" in os.environ and "RANK" in os.environ:
    _moment = json.loads(os.environ["SRPO_TEST_MOMENT"])
    _file = Path(_moment["file"])
    if int(os.environ["RANK"]) == _moment["rank"] and (not _file.exists() or stat.S_ISFIFO(_file.stat().st_mode)):
        _arrange(_moment["call"], _file, _moment["then"])
