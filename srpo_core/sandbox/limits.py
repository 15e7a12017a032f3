"""What one sandboxed process may use."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Ceilings of one process. Raises ValueError for one that is not positive."""

    wall_seconds: float = 20.0
    """From the start to the answer; then it is killed. Well above `cpu_seconds`: a busy machine is not its fault."""
    cpu_seconds: float = 8.0
    """Processor time of all its threads, rounded up to whole seconds by the kernel."""
    memory_bytes: int = 512 * 2**20
    """Address space, the interpreter's own (about 60 MiB) included."""
    output_bytes: int = 8 * 2**20
    """Standard output; also each file, and each value that it hands back."""
    processes: int = 8
    """Threads, the main one included. New processes are never allowed."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"limits: {name} must be positive, it is {value!r}")
