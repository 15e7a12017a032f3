"""A command on a pseudo-terminal, whose screen is emulated."""

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import pyte

PATIENCE_SECONDS = 300.0


@dataclass
class Terminal:
    """The command's terminal: what it shows now, and every picture that it showed."""

    command: list[str]
    environment: Mapping[str, str]
    columns: int
    lines: int = 200  # nothing scrolls away
    screens: list[list[str]] = field(default_factory=list)
    written: bytes = b""

    def __enter__(self) -> Self:
        self._pid, self._terminal = pty.fork()
        if self._pid == 0:
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", self.lines, self.columns, 0, 0))
            own = {name: value for name, value in self.environment.items() if name not in ("COLUMNS", "LINES")}
            os.execvpe(self.command[0], self.command, own | {"TERM": "xterm-256color"})
        self._screen = pyte.Screen(self.columns, self.lines)
        self._stream = pyte.ByteStream(self._screen)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._terminal)  # hangs up, which ends a command that goes on

    @property
    def screen(self) -> list[str]:
        """The lines that the screen shows now, but for the empty ones at its foot."""
        return "\n".join(line.rstrip() for line in self._screen.display).rstrip().split("\n")

    @property
    def cursor_is_shown(self) -> bool:
        """Whether the cursor can be seen."""
        return not self._screen.cursor.hidden

    def press(self, key: str) -> None:
        """Type a key."""
        os.write(self._terminal, key.encode())

    def until(self, seen: Callable[[list[str]], bool]) -> None:
        """Read on until the screen is as `seen` wants it."""
        while not seen(self.screen):
            assert self._read(), "the command ended: " + "\n".join(self.screen)

    def end(self) -> int:
        """Read to the end; gives the exit status."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        deadline = time.monotonic() + PATIENCE_SECONDS
        if not select.select([self._terminal], [], [], deadline - time.monotonic())[0]:
            raise AssertionError("nothing more came: " + "\n".join(self.screen))
        try:
            data = os.read(self._terminal, 65536)
        except OSError:  # so Linux tells that the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        self.screens.append(self.screen)
        return bool(data)
