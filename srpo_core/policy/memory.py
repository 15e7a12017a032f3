"""Memory that runs out: known by what the allocator of the day raises."""

import torch

# Of torch's CPU allocator on Linux and elsewhere, and of the C++ libraries under it.
_MESSAGES = ("can't allocate memory", "not enough memory", "std::bad_alloc", "out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out, on the device or on the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(message in str(error) for message in _MESSAGES)
