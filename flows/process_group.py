"""A command and all that it starts, which end with the process that asked for them, however that ends.

    python -m flows.process_group PARENT COMMAND...

Leads a process group of its own and runs the command in it, again when it was killed, or ended by itself after a
while of work: the rest of the group stays, so a worker's stages go on without it. When the command fails at once, the
process PARENT ends, or the group is asked to end (SIGTERM), all of it ends, what does not within a while by SIGKILL.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 15.0
WORK_SECONDS = 60.0  # what ends by itself sooner than this has a fault that it would meet again
_POLL_SECONDS = 0.2
_PAUSE_SECONDS = 1.0


def lead(parent: int, command: list[str]) -> int:
    """Run the command until it fails or the group must end; gives its exit status."""
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())  # a handler: the command would inherit SIG_IGN
    while True:
        began = time.monotonic()
        process = subprocess.Popen(command)
        while process.poll() is None and not asked.is_set() and os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        if asked.is_set() or os.getppid() != parent:
            return _end(process, asked)
        if process.returncode >= 0 and time.monotonic() - began < WORK_SECONDS:
            return process.returncode
        print(f"ended with status {process.returncode}, begins again", flush=True)
        asked.wait(_PAUSE_SECONDS)


def _end(process: subprocess.Popen[bytes], asked: threading.Event) -> int:
    if not asked.is_set():  # once: workers and servers take a second SIGTERM for SIGKILL
        os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return process.poll() or 0


if __name__ == "__main__":
    status = lead(int(sys.argv[1]), sys.argv[2:])
    print(f"ended with status {status}", flush=True)
    os.killpg(0, signal.SIGKILL)  # itself too: whatever is left of the group
