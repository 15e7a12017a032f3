"""The first code of every sandboxed interpreter: it imports from texts handed over in memory.

No file of this package need be reachable inside. Run as `python -c BOOT SOURCES MAIN ARGUMENTS…`: the descriptor of a
file that holds {module: text} as JSON, the module whose `main` is called, and what it finds in sys.argv[3:].
"""

import importlib.abc
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Sequence


class _Texts(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package = any(name.startswith(fullname + ".") for name in self._texts)
        if fullname not in self._texts and not package:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin="memory", is_package=package)

    def get_source(self, fullname: str) -> str:
        return self._texts.get(fullname, "")


def start() -> None:
    """Import the named module and run it."""
    descriptor = int(sys.argv[1])
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        texts = json.load(file)
    sys.meta_path.insert(0, _Texts(texts))
    main: str = sys.argv[2]
    importlib.import_module(main).main()


if __name__ == "__main__":
    start()
