"""DuckDB views and macros over the Parquet files of one run, or of a store of many runs.

`connect` makes them in memory, over what is committed now; `build_catalog` keeps them in `history.duckdb` for other
clients. The file holds no rows and is replaced whole, so nobody ever holds it read-write and no reader blocks a run.
Its paths are absolute: build it again after moving a store. Views are described in storage/sql/.
"""

from pathlib import Path

import duckdb

from storage.files import StoreError, replace_file
from storage.queries import in_memory, literal, told
from storage.stores import Store, open_store
from storage.views import make_views


def connect(where: Path | str | Store, *, comments: bool = True) -> duckdb.DuckDBPyConnection:
    """A connection in memory with all views and macros over a run's directory or a store of runs.

    Without `comments`, which programs do not read, it takes half the time.
    It may read and write like any DuckDB connection: for people, use `readonly.open_readonly`. Raises StoreError.
    """
    store = open_store(where) if isinstance(where, Path | str) else where
    connection = in_memory()
    try:
        store.prepare(connection)
        make_views(connection, store, comments=comments)
    except duckdb.Error as error:
        connection.close()
        raise StoreError(f"The views over {store.root} cannot be made: {told(error)}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def build_catalog(directory: Path, store: Store | None = None) -> None:
    """Write `directory`/history.duckdb anew: the same views and macros, for other DuckDB clients.

    They are over `store`, or without one over `directory` itself.

    Checked with 1.5.6, which answers everything but token ids (it lacks BYTE_STREAM_SPLIT of integers). DuckDB
    mistakes a '?' in a database's path for a query string: a store's path may not hold one.
    Raises StoreError, StoreFull.
    """
    place = store or open_store(directory)

    def write(path: Path) -> None:
        with in_memory() as connection:
            place.prepare(connection)
            # v1.0.0: so that clients older than the one that writes can open the file.
            connection.execute(f"ATTACH {literal(path)} AS history (STORAGE_VERSION 'v1.0.0'); USE history")
            make_views(connection, place, comments=True)
            connection.execute("USE memory; DETACH history")

    try:
        replace_file(directory / "history.duckdb", directory / "_tmp", write)
    except duckdb.Error as error:
        raise StoreError(f"{directory / 'history.duckdb'} cannot be made: {told(error)}") from error
