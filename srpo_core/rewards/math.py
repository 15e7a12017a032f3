"""Whether a completion answers a math problem, judged in processes that can be killed.

`judge_math` is the judgement itself, and `MathVerifier` asks it of workers: sympy may take for ever, or all memory, on
a text that a model wrote, and it cannot be interrupted from within. The policy is told in docs/verifiers.md.
"""

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from srpo_core.rewards.workers import WorkerDiedError, WorkerPool, WorkerTimeoutError

MathVerdict = Literal[
    "correct",
    "wrong_answer",
    "no_answer",
    "too_large",
    "timeout",
    "memory_exceeded",
    "gold_unreadable",
    "worker_lost",
]
"""What is said of an answer. `gold_unreadable` and `worker_lost` say nothing about the answer: it is ungraded."""
UNGRADED: frozenset[MathVerdict] = frozenset({"gold_unreadable", "worker_lost"})
_WORKER = "srpo_core.rewards.math_worker"
_OUT_OF_MEMORY = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})
"""How a process ends whose native code gets no memory, or no more stack."""
_BLOWN: frozenset[MathVerdict] = frozenset({"timeout", "memory_exceeded"})
_HARMLESS = r"\boxed{0.12345}"
_LARGEST_BATCH = 16
"""Pairs that a worker is given at once, so that it need not wait for the next one; it answers them one by one."""


@dataclass(frozen=True)
class MathJudgement:
    """A verdict, and the seconds it took."""

    verdict: MathVerdict
    seconds: float


def judge_math(gold: str, prediction: str) -> MathVerdict:
    """Whether a completion (or a boxed answer) gives the gold answer. It may take for ever: see `MathVerifier`."""
    from srpo_core.rewards.answers.judging import judge_answer, read_gold

    return judge_answer(read_gold(gold), prediction)


class MathVerifier:
    """Judges answers in processes of its own. From any thread, and from several at once.

    seconds: the limit on the wall-clock time of one answer. memory_bytes: that on a worker's address space, which is
    about 65 MB at its start.
    """

    def __init__(self, *, workers: int = 1, seconds: float = 5.0, memory_bytes: int = 1 << 30) -> None:
        """Starts nothing yet. Raises ValueError for limits that are not positive."""
        if seconds <= 0 or memory_bytes <= 0:
            raise ValueError(f"limits must be positive, not {seconds} seconds and {memory_bytes} bytes")
        self._seconds = seconds
        self._workers = workers
        self._pool = WorkerPool(_WORKER, [str(seconds), str(memory_bytes)], workers=workers)
        self._blown_golds: set[str] = set()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="math-verifier")

    def judge(self, pairs: Sequence[tuple[str, str]]) -> list[MathJudgement]:
        """Judge (gold answer, prediction) pairs over all workers; the judgements come in the pairs' order."""
        size = max(1, min(_LARGEST_BATCH, len(pairs) // (4 * self._workers)))
        batches = [pairs[start : start + size] for start in range(0, len(pairs), size)]
        return [judgement for judged in self._threads.map(self._judge_batch, batches) for judgement in judged]

    def close(self) -> None:
        """End the workers."""
        self._threads.shutdown()
        self._pool.close()

    def __enter__(self) -> "MathVerifier":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _judge_batch(self, pairs: Sequence[tuple[str, str]]) -> list[MathJudgement]:
        """Judge some pairs, with as many workers one after the other as it costs.

        A pair whose worker is lost (killed from outside) is tried once more. When a judgement blew up, its gold answer
        is compared with a plain number: if that does too, the problem is at fault, and it is not asked again.
        """
        judged: list[MathJudgement] = []
        lost = False
        while len(judged) < len(pairs):
            if pairs[len(judged)][0] in self._blown_golds:
                judged.append(MathJudgement("gold_unreadable", 0.0))
                continue
            *answered, last = self._ask(pairs[len(judged) :])
            judged += answered
            lost = lost and not answered
            if last.verdict == "worker_lost" and not lost:
                lost = True
                continue
            lost = False
            gold = pairs[len(judged)][0]
            if last.verdict in _BLOWN and self._ask([(gold, _HARMLESS)])[-1].verdict in {*_BLOWN, "worker_lost"}:
                self._blown_golds.add(gold)
                last = MathJudgement("gold_unreadable", last.seconds)
            judged.append(last)
        return judged

    def _ask(self, pairs: Sequence[tuple[str, str]]) -> list[MathJudgement]:
        """What one worker says of the pairs, up to the first that it did not survive: one judgement or more."""
        judged: list[MathJudgement] = []
        worker = self._pool.borrow()
        retire = True
        start = time.perf_counter()

        def say(verdict: MathVerdict) -> None:
            nonlocal start
            start, before = time.perf_counter(), start
            judged.append(MathJudgement(verdict, start - before))

        try:
            worker.ask(pairs, self._seconds)
            start = time.perf_counter()
            for _ in pairs:
                verdict, retire = worker.answer(self._seconds)
                say(verdict)
                if retire:
                    break
        except WorkerTimeoutError:
            retire = True
            say("timeout")
        except WorkerDiedError as error:
            retire = True
            say(_verdict_of_death(error.returncode))
        finally:
            if retire:
                self._pool.replace(worker)
            else:
                self._pool.give_back(worker)
        return judged


def _verdict_of_death(returncode: int) -> MathVerdict:
    if returncode in (-signal.SIGXCPU, -signal.SIGALRM):
        return "timeout"
    return "memory_exceeded" if returncode in _OUT_OF_MEMORY else "worker_lost"
