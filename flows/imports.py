"""Importing what a run takes: hundreds of modules, in which the garbage collector finds nothing."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Nobody looks for garbage in the block, which was a quarter of its time, nor in what it leaves until the end."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        atexit.register(gc.unfreeze)  # what is frozen is never freed, of which DuckDB's bindings would complain
