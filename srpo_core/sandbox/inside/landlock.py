"""Landlock: which files a process may reach at all, whatever its user may (landlock(7), ABI 1 to 6)."""

import ctypes
import os
import struct
from collections.abc import Iterable

from srpo_core.sandbox.inside.libc import LIBC

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute, read a file, read a directory
_MAKE = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8  # write a file; remove directories, files; make directories, files
_ALL_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_TRUNCATE = 1 << 14
_REFER = 1 << 13
_NETWORK = 0b11  # bind and connect TCP
_SCOPES = 0b11  # abstract Unix sockets, signals


def abi() -> int:
    """The kernel's Landlock version; 0 when it has none."""
    version = _syscall(_CREATE, None, 0, 1)
    return max(version, 0)


def ruleset(readable: Iterable[str], writable: Iterable[str]) -> int:
    """A descriptor of rules: files below `readable` may be read, below `writable` also made; nothing else.

    Paths that do not exist are left out. From ABI 4 on TCP is denied, from ABI 6 on signals to the outside.
    Raises OSError when the kernel has no Landlock.
    """
    version = abi()
    handled = _ALL_BY_ABI[min(version, 5)] if version else 0
    attributes = struct.pack("QQQ", handled, _NETWORK if version >= 4 else 0, _SCOPES if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _checked(_syscall(_CREATE, attributes, size, 0))
    for paths, access in ((readable, _READ), (writable, _READ | _MAKE | _TRUNCATE | _REFER)):
        for path in paths:
            _add(rules, path, access & handled)
    return rules


def restrict(rules: int) -> None:
    """Puts the calling process under the rules, for good. Raises OSError when the kernel refuses."""
    _checked(_syscall(_RESTRICT, rules, 0))


def _add(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # what cannot be reached needs no rule
        return
    try:
        if not os.path.isdir(path):
            access &= 1 << 0 | 1 << 1 | 1 << 2 | _TRUNCATE
        _checked(_syscall(_ADD, rules, 1, struct.pack("=Qi", access, place), 0))
    finally:
        os.close(place)


def _syscall(number: int, *arguments: object) -> int:
    converted = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments]  # type: ignore[arg-type]
    return int(LIBC.syscall(ctypes.c_long(number), *converted))


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"Landlock: {os.strerror(ctypes.get_errno())}")
    return result
