"""The C library, opened once: a forked process that opens it again pays for it in copied memory."""

import ctypes

LIBC = ctypes.CDLL(None, use_errno=True)
_FUNCTIONS = (LIBC.prctl, LIBC.syscall)  # looked up before the fork


def prctl(option: int, *values: object) -> None:
    """prctl(2). Raises OSError."""
    padded = (*values, *(0,) * (4 - len(values)))
    if LIBC.prctl(option, *padded):
        raise OSError(ctypes.get_errno(), f"prctl {option} is refused")
