"""How stages that run at the same time keep company: they start in turn, and when one must stop, all do."""

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial

from flows.handover import Handover
from flows.progress import announce

POLL_SECONDS = 0.01
POLL_IN_COMPANY_SECONDS = 0.25  # news wakes who waits; this is for what another process commits
STAGE_THREAD = "stage of the run"


class StageStoppedError(Exception):
    """The stage was asked to stop; what it committed stands, and the run can be resumed."""

    def __init__(self) -> None:
        super().__init__("stopped; `srpo resume` goes on from what is committed")


class News:
    """Wakes those who wait for something to be committed."""

    def __init__(self) -> None:
        self._told = threading.Condition()
        self.count = 0

    def tell(self) -> None:
        """Wake all who wait."""
        with self._told:
            self.count += 1
            self._told.notify_all()

    def wait(self, seen: int, seconds: float) -> None:
        """Return once there is news since the `count` was `seen`, or after so many seconds."""
        with self._told:
            self._told.wait_for(lambda: self.count != seen, seconds)


@dataclass
class Company:
    """What stages that run at the same time have in common."""

    stop: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    errors: list[BaseException] = field(default_factory=list)
    news: News = field(default_factory=News)
    handover: Handover = field(default_factory=Handover)

    def end(self) -> None:
        """Let all stop at their next step."""
        self.stop.set()
        self.news.tell()


# Contexts that are copied for a stage's thread hold the same object.
_COMPANY: ContextVar[Company | None] = ContextVar("company", default=None)
_WATCH: ContextVar[Callable[[], bool] | None] = ContextVar("watch", default=None)


def stage_begins() -> None:
    """Tell the company that this stage's flow run has begun."""
    company = _COMPANY.get()
    if company is not None:
        company.begun.set()


@contextmanager
def watching(must_stop: Callable[[], bool]) -> Iterator[None]:
    """In the block, the stage also stops once `must_stop()`: how one in a process of its own learns of the others."""
    token = _WATCH.set(must_stop)
    try:
        yield
    finally:
        _WATCH.reset(token)


def check_stop() -> None:
    """Raise StageStoppedError when the company is stopping."""
    company, must_stop = _COMPANY.get(), _WATCH.get()
    if (company is not None and company.stop.is_set()) or (must_stop is not None and must_stop()):
        raise StageStoppedError


def wait_until(ready: Callable[[], bool]) -> None:
    """Return once `ready()`, which looks at what is committed. Raises StageStoppedError when the company stops."""
    company = _COMPANY.get()
    while True:
        seen = 0 if company is None else company.news.count
        if ready():
            return
        check_stop()
        if company is None:
            time.sleep(POLL_SECONDS)
        else:
            company.news.wait(seen, POLL_IN_COMPANY_SECONDS)


def tell_company() -> None:
    """Wake the stages at work beside this one: something was committed, or is offered."""
    company = _COMPANY.get()
    if company is not None:
        company.news.tell()


def present_handover() -> Handover:
    """Where weights go from stage to stage of the company; without one, nobody offers and nobody takes."""
    company = _COMPANY.get()
    return Handover() if company is None else company.handover


def stages_at_work() -> bool:
    """Whether a stage of this process has not ended yet."""
    return any(thread.name == STAGE_THREAD for thread in threading.enumerate())


def run_together(*stages: Callable[[], object]) -> None:
    """Run stages at the same time, each in a thread and a child flow run of the present one.

    When one fails, or this thread is interrupted, the others stop at their next step, which is waited for: a step may
    take minutes, and what it has done would be lost. Raises what the first raised, KeyboardInterrupt at once when it
    comes again meanwhile.
    They begin one after the other: flow runs that begin at the same moment collide in Prefect's SQLite database,
    which costs seconds.
    """
    company = Company()
    token = _COMPANY.set(company)
    ended: list[threading.Event] = []

    def run(stage: Callable[[], object], end: threading.Event) -> None:
        try:
            stage()
        except BaseException as error:
            company.errors.append(error)
            company.end()
        finally:
            company.begun.set()
            end.set()

    try:
        for stage in stages:
            company.begun.clear()
            ended.append(threading.Event())
            context = contextvars.copy_context()
            work = partial(context.run, run, stage, ended[-1])
            threading.Thread(target=work, name=STAGE_THREAD, daemon=True).start()
            company.begun.wait()
        # Events, not Thread.join: a join that a signal interrupts takes the thread for ended (Python 3.11).
        for end in ended:
            end.wait()
    finally:
        company.end()  # all have ended, or must
        _COMPANY.reset(token)
        if not all(end.is_set() for end in ended):
            announce(
                "stopping: the step under way is finished first; Ctrl-C again ends at once, and loses no more than it"
            )
        for end in ended:
            end.wait()
    if company.errors:
        raise company.errors[0]
