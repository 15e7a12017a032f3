"""What a process keeps from flow to flow: engines, of which a vLLM server takes a minute to start, until their end."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar


class Closed(Protocol):
    """What is closed at its end."""

    def close(self) -> None:
        """End it, and what belongs to it."""


T = TypeVar("T", bound=Closed)
_KEPT: dict[Path, Any] = {}
_LOCK = threading.Lock()


def kept(directory: Path, make: Callable[[], T]) -> T:
    """The engine of this directory, which `make()` makes the first time."""
    with _LOCK:
        if directory not in _KEPT:
            _KEPT[directory] = make()
        engine: T = _KEPT[directory]
        return engine


@contextmanager
def engines_kept() -> Iterator[None]:
    """Engines that are opened in the block are kept for the process until it ends."""
    try:
        yield
    finally:
        with _LOCK:
            while _KEPT:
                _, engine = _KEPT.popitem()
                engine.close()
