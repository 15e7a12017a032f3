"""What a history needs of the place that keeps its files, and how a place is opened.

A *key* names a file below the store's root, with `/` between its parts:
`index/run=R/stage=1/epoch=0/step-000000.parquet`.
A file is published once, whole, by whoever comes first; nothing is ever replaced.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

import duckdb

from storage.files import LocalStore, StoreError

Write = Callable[[Path], None]
"""Fills the empty local file at a path."""


class Store(Protocol):
    """A place that keeps published files. Any number of processes may call any method at once.

    Every method raises StoreError, which names the file or URL and the remedy.
    """

    @property
    def root(self) -> str:
        """The absolute path or URL under which all keys lie, without a slash at its end."""

    @property
    def pattern(self) -> str:
        """`root` as a DuckDB glob that matches it alone."""

    def url(self, key: str) -> str:
        """The absolute path or URL of a key, for messages."""

    def create(self) -> None:
        """Make the place ready for `publish`, and refuse one that does not let the first writer win; idempotent."""

    def publish(self, key: str, write: Write, *, settled: bool = True) -> bool:
        """Publish one file: True when the key is now what `write` wrote, False when another attempt was first.

        `write` gets the path of an empty local file and fills it; whatever it raises passes through, and nothing was
        published. Without `settled` a power cut may still take the file away, whole, until a `commit` after its folder:
        for what nothing counts on before. Raises StoreFull.
        """

    def commit(self, files: Sequence[tuple[str, Write]], *, after: str, seen: Callable[[], object]) -> bool:
        """Publish files in their order, once all that anyone published directly in the folder `after` is durable.

        `seen` is called as soon as all are seen; they are durable on return. True when the last one is what its `write`
        wrote, False when another attempt was first. Raises StoreFull.
        """

    def exists(self, key: str) -> bool:
        """Whether a key is published, in one look at that key alone."""

    def read(self, key: str) -> bytes:
        """A published file, whole. Raises MissingFile."""

    def keys(self, folder: str) -> list[str]:
        """Every published key below a folder at any depth, sorted as text; none when there is no such folder."""

    def folders(self, folder: str) -> list[str]:
        """Names (not keys) of the folders directly in a folder ("": the root), sorted; none when there is none."""

    def remove(self, key: str) -> None:
        """Remove a published file; no error when it is gone. For maintenance alone: readers may hold the key."""

    def sweep(self) -> int:
        """Remove what killed processes left unpublished, and nothing that a living one holds; returns how many."""

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let a DuckDB connection read files below `root`."""


def open_store(where: Path | str, tmp_root: Path | None = None) -> Store:
    """The store at a directory, a `file:///…` or an `s3://bucket/prefix`; nothing is touched.

    `tmp_root` is where an object store's files are prepared. Raises StoreError for a URL of another kind.
    """
    scheme, separator, _ = str(where).partition("://")
    if not separator or isinstance(where, Path):
        return LocalStore(Path(where))
    if scheme == "s3":
        from storage.objects import ObjectStore  # a local history needs nothing of obstore

        return ObjectStore(str(where), tmp_root)
    if str(where).startswith("file:///"):
        return LocalStore(Path(url2pathname(urlsplit(str(where)).path)))
    raise StoreError(f"{str(where)!r} is no place for a history: give a directory, file:///… or s3://bucket/prefix.")
