"""How many processes make an update together."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from srpo_core.settings.section import MayChange, PositiveInt, Section


class ParallelSettings(Section):
    """The processes that make an update together, each with its share of model, optimizer and rollouts (FSDP2).

    More than one is started by torchrun and stays up for an epoch's steps. See docs/training.md.
    """

    processes: Annotated[PositiveInt, MayChange.ROUNDED] = 1
    """Processes on each machine: on GPUs one for each, on CPUs as many as are worth it."""
    nodes: Annotated[PositiveInt, MayChange.ROUNDED] = 1
    """Machines. `srpo ranks RUN --node N` is started on every one but the first; all see the store at the same path."""
    endpoint: Annotated[Annotated[str, Field(pattern=r"^[^:\s]+:\d+$")] | None, MayChange.ALIKE] = None
    """host:port of the first machine, where the others meet it. Needed with more than one machine."""

    @property
    def size(self) -> int:
        """Processes in all."""
        return self.processes * self.nodes

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.nodes > 1 and self.endpoint is None:
            raise ValueError("update.parallel.endpoint is needed with several nodes: host:port of the first machine")
        return self
