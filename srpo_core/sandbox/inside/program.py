"""Runs a whole program as `__main__`: standard input to standard output."""

import atexit
import json
import os
import sys
import types
from typing import Any

from srpo_core.sandbox.inside.serve import told

STATUS = 4


def main(job: dict[str, Any]) -> None:
    """Entry of a sandboxed process: `job` holds `code`. Never returns: it exits with the program's status.

    The status pipe is told why a program ended; it shares a process with the program, so it only explains failures.
    """
    try:
        compiled = compile(job["code"], "program.py", "exec", dont_inherit=True)
    except BaseException as error:
        _report("refused", told(error))
        os._exit(1)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    status = _outcome(compiled, module)
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for the program's threads
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        _report(_kind(error), _safely_told(error))
        status = 1
    os._exit(status)


def _outcome(compiled: types.CodeType, module: types.ModuleType) -> int:
    try:
        exec(compiled, module.__dict__)
    except SystemExit as end:
        return _status(end.code)
    except BaseException as error:
        _report(_kind(error), _safely_told(error))
        return 1
    return 0


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    _report("raised", f"SystemExit: {code!s:.200}")
    return 1


def _kind(error: BaseException) -> str:
    return "memory" if isinstance(error, MemoryError) else "raised"


def _safely_told(error: BaseException) -> str:
    try:
        return told(error)
    except BaseException:
        return type(error).__name__


def _report(kind: str, text: str) -> None:
    os.write(STATUS, json.dumps({"kind": kind, "text": text}).encode()[:3000])
