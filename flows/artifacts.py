"""What the Prefect UI shows beside flow runs: tables, texts, links and progress, one series per run and kind.

What is shown is not what is committed. A thread of its own sends it, in order, while the work goes on; what the API
does not take is told in the log and fails nothing. The process ends when all is sent.
"""

import contextvars
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import ContextVar
from functools import cache
from typing import Any
from uuid import UUID

from prefect.artifacts import Artifact, LinkArtifact, MarkdownArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.context import FlowRunContext
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_API_URL
from prefect.utilities.context import get_task_and_flow_run_ids

from flows.faults import is_transient
from flows.runs import Run

ROWS = 1000
"""Rows of a table in the UI, at most; all of them are in the history."""

_SENDER = ThreadPoolExecutor(1, thread_name_prefix="artifacts")
_SENDING: ContextVar[bool] = ContextVar("sending", default=False)


def publish_table(
    run: Run, kind: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], description: str
) -> None:
    """Show `columns` of the first `ROWS` rows as the newest artifact of the run's series `kind`."""
    table = [{column: _readable(row[column]) for column in columns} for row in rows[:ROWS]]
    part = f"; the first {ROWS} of {len(rows)} rows" if len(rows) > ROWS else ""
    send(_create, TableArtifact(table=table, key=_key(run.name, kind), description=description + part))


def publish_text(run: Run, kind: str, markdown: str, description: str) -> None:
    """Show a text as the newest artifact of the run's series `kind`."""
    send(_create, MarkdownArtifact(markdown=markdown, key=_key(run.name, kind), description=description))


def publish_link(run: Run, kind: str, link: str, text: str, description: str) -> None:
    """Show a link as the newest artifact of the run's series `kind`."""
    send(_create, LinkArtifact(link=link, link_text=text, key=_key(run.name, kind), description=description))


class ProgressSeries:
    """One progress artifact of the series `kind` of a run or evaluation: made when it is first shown, then updated."""

    def __init__(self, name: str, kind: str) -> None:
        self._key = _key(name, kind)
        self._context = contextvars.copy_context()  # progress may be told by threads that know no flow run
        self._id: UUID | None = None
        self._lock = threading.Lock()
        self._newest: tuple[float, str] | None = None  # not sent yet; what was not sent before it never will be

    def show(self, percent: float, description: str) -> None:
        """Show `percent`, 0 to 100, and a line about it."""
        with self._lock:
            waits, self._newest = self._newest is not None, (percent, description)
        if not waits:
            self._context.copy().run(send, self._show)

    def _show(self) -> None:
        with self._lock:
            newest, self._newest = self._newest, None
        assert newest is not None
        percent, description = newest
        if self._id is None:
            self._id = _create(ProgressArtifact(progress=percent, key=self._key, description=description))
        else:
            _client(PREFECT_API_URL.value()).update_artifact(
                self._id, ArtifactUpdate(data=percent, description=description)
            )


def send(call: Callable[..., object], *arguments: Any) -> None:
    """Have the sending thread do `call(...)`, which shows something, as the present flow or task run."""
    if _SENDING.get():
        call(*arguments)
    elif FlowRunContext.get() is not None:
        _SENDER.submit(contextvars.copy_context().run, _try, call, *arguments)


def wait_until_sent() -> None:
    """Return once all is sent that was to be shown so far: at the end of a process that can still log what was not."""
    wait([_SENDER.submit(lambda: None)])


def _try(call: Callable[..., object], *arguments: Any) -> None:
    _SENDING.set(True)  # in the copy of a context that is this call's alone
    try:
        call(*arguments)
    except Exception as error:
        get_run_logger().warning("not shown in the UI: %s", error, exc_info=not is_transient(error))


def _create(artifact: Artifact) -> UUID:
    task_run, flow_run = get_task_and_flow_run_ids()
    made = _client(PREFECT_API_URL.value()).create_artifact(
        ArtifactCreate(
            type=artifact.type,
            key=artifact.key,
            description=artifact.description,
            data=artifact.format(),
            task_run_id=task_run,
            flow_run_id=flow_run,
        )
    )
    return made.id


@cache
def _client(_url: str | None) -> SyncPrefectClient:
    """The sending thread's client: a flow run's own is closed when that ends, and to make one takes 20 ms."""
    return get_client(sync_client=True, httpx_settings={})


def _readable(value: object) -> object:
    """A value for people, and for JSON, which has nothing for the figures of a diverged run that are not finite."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.5g}") if math.isfinite(value) else str(value)


def _key(name: str, kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{name}-{kind}".lower()).strip("-")
