"""A command and all that it starts, which end with the process that asked for them, however that ends.

    python -m flows.process_group PARENT COMMAND...

Leads a process group of its own and runs the command in it. When the command ends, or the process PARENT does, what is
left of the group is asked to end (SIGTERM) and, after a while, killed.
"""

import os
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 15.0
_POLL_SECONDS = 0.2


def lead(parent: int, command: list[str]) -> int:
    """Run the command to its end, or to its parent's; gives its exit status."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # meant for the others of the group, whose end this one outlives
    while process.poll() is None and os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    if process.poll() is None:
        os.killpg(0, signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    return process.poll() or 0


if __name__ == "__main__":
    status = lead(int(sys.argv[1]), sys.argv[2:])
    print(f"ended with status {status}", flush=True)
    os.killpg(0, signal.SIGKILL)  # itself too: whatever is left of the group
