"""What carries out the stages of a run: this process, or deployments on work pools. What they compute is the same."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from prefect import Flow, tags

from flows.runs import Run
from flows.together import check_stop, run_together

Mode = Literal["inline", "deployments"]


@dataclass(frozen=True)
class Stage:
    """A piece of work that a run needs: its flow, its place in the run, and a look at whether it is all committed."""

    flow: Flow[Any, Any]
    run: Run
    place: Mapping[str, int]
    is_done: Callable[[], bool]

    @property
    def parameters(self) -> dict[str, Any]:
        """What the flow is called with, in whatever process."""
        return {"store": str(self.run.store.absolute()), "run": self.run.name, **self.place}

    @property
    def tags(self) -> list[str]:
        """What its flow run can be found by."""
        where = [f"{name}:{self.place[name]}" for name in ("stage", "epoch") if name in self.place]
        return [*run_tags(self.run), *where]


def run_tags(run: Run) -> list[str]:
    """The tags of every flow run of a run: its name, and its directory, which is its alone."""
    return [f"run:{run.name}", directory_tag(run.directory)]


def directory_tag(directory: Path) -> str:
    """The tag by which the flow runs of the run in `directory` are found."""
    return f"srpo:{directory.absolute()}"


def tagged(run: Run) -> AbstractContextManager[Any]:
    """Flow runs that begin in the block can be found as this run's."""
    return tags(*run_tags(run))


Row = Sequence[Stage]
"""Stages that follow one another."""


def run_inline(*rows: Row) -> None:
    """Carry out what is not committed of the stages in this process; several rows at once, each in a thread."""
    if len(rows) > 1:
        run_together(*[partial(_carry_out, row) for row in rows])
    else:
        _carry_out(*rows)


def _carry_out(row: Row) -> None:
    for stage in row:
        check_stop()
        if not stage.is_done():
            with tags(*stage.tags):
                stage.flow(**stage.parameters)
