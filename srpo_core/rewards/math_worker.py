"""The process that judges math answers, one at a time: `python -m srpo_core.rewards.math_worker SECONDS BYTES`.

It ends when its standard input closes, when it has answered so many questions that its caches are worth dropping, when
its memory has grown, and by a signal of its own when an answer takes too long and no parent is there to kill it.
"""

import resource
import signal
import socket
import sys
from math import ceil
from pathlib import Path

from srpo_core.rewards.math import judge_math
from srpo_core.rewards.workers import receive, send

MOST_ANSWERS = 2_000
MOST_GROWTH_BYTES = 128 << 20
_GRACE_SECONDS = 2
_RECURSION = 3_000


def main() -> None:
    """Answer until the parent closes."""
    seconds, memory_bytes = float(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(_RECURSION)
    judge_math(r"\frac{x}{2}", r"\boxed{0.5x}")  # the first judgement loads the rest of sympy
    with socket.socket(fileno=0) as connection:
        send(connection, "started")
        start = resident_bytes()
        answered = 0
        while (pairs := receive(connection)) is not None:
            for gold, prediction in pairs:
                answered += 1
                _limit_time(seconds)
                verdict = _judge(gold, prediction)
                signal.setitimer(signal.ITIMER_REAL, 0)
                grown = resident_bytes() - start > MOST_GROWTH_BYTES
                retire = answered >= MOST_ANSWERS or grown or verdict == "memory_exceeded"
                send(connection, [verdict, retire])
                if retire:
                    return


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _limit_time(seconds: float) -> None:
    """Limits that hold without a parent: the kernel ends this process a little after the parent would have."""
    signal.setitimer(signal.ITIMER_REAL, seconds + _GRACE_SECONDS)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = usage.ru_utime + usage.ru_stime
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (ceil(used + seconds) + _GRACE_SECONDS, hard))


def _judge(gold: str, prediction: str) -> str:
    try:
        return judge_math(gold, prediction)
    except MemoryError:
        return "memory_exceeded"


if __name__ == "__main__":
    main()
