"""A history in an object store: S3, and whatever speaks its language, through obstore.

An upload is whole or not there, so nothing has to be linked, settled or swept. The first writer wins by S3's
conditional write (`If-None-Match: *`), and a store that ignores the condition is refused before anything is written.

The usual AWS variables of the environment say how to reach the store (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_SKIP_SIGNATURE, …); nothing of them is ever recorded.
"""

import contextlib
import datetime
import io
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import obstore
from fsspec.core import has_magic
from obstore.exceptions import AlreadyExistsError, BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import S3Store

from storage.files import MissingFile, StoreError, StoreFull, explain, temporary_directory

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]+)((?:/[A-Za-z0-9._=-]+)*)/?")
_PROBE = "_probe"
_ATTEMPT = "srpo-attempt"  # an object's metadata: which attempt wrote it
_SMALL = 1 << 20  # bytes; objects up to this size are sent in no time, and given to DuckDB in one request

# A store that cannot be reached, or does not answer, is told of within half a minute.
_RETRIES: Any = {
    "max_retries": 5,
    "retry_timeout": datetime.timedelta(seconds=8),
    "backoff": {"max_backoff": datetime.timedelta(seconds=3)},
}
_PROMPT: Any = {"connect_timeout": "5s", "read_timeout": "12s", "timeout": "10m"}
_PATIENT: Any = {"connect_timeout": "5s", "timeout": "10m"}  # the read timeout would count the whole upload


class ObjectStore:
    """The objects below `s3://bucket/prefix` (see `storage.stores.Store`)."""

    def __init__(self, url: str, tmp_root: Path | None = None) -> None:
        """Name a place; nothing is asked of it. Files are prepared in `tmp_root`, else among the system's temporaries.

        Raises StoreError for what is no such URL.
        """
        match = _URL.fullmatch(url)
        if match is None or ".." in url.split("/"):
            raise StoreError(
                f"{url!r} names no object store: write s3://bucket/prefix, with letters, digits, '.', '_', '-' and "
                "'='; endpoint, region and credentials come from the environment (AWS_ENDPOINT_URL, AWS_REGION, …)."
            )
        self.root = url.rstrip("/")
        self._bucket, self._tmp_root = match[1], tmp_root
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self._store, self._uploads = (
            S3Store(
                match[1],
                prefix=match[2].strip("/") or None,
                client_options=patience | {"allow_http": endpoint.startswith("http://")},
                retry_config=_RETRIES,
            )
            for patience in (_PROMPT, _PATIENT)
        )

    @property
    def pattern(self) -> str:
        """The root; what it may be made of means nothing in a glob."""
        return self.root

    def url(self, key: str) -> str:
        """The URL of a key."""
        return f"{self.root}/{key}"

    def create(self) -> None:
        """Prove that the second of two conditional writes is refused; the proof stays. Raises StoreError."""
        with self._explained(_PROBE):
            for _ in range(2):
                try:
                    obstore.put(self._store, _PROBE, b"the second write of this object must be refused", mode="create")
                except AlreadyExistsError:
                    return
            obstore.delete(self._store, _PROBE)
        raise StoreError(
            f"{self.root} cannot keep a history: the store accepted a second conditional write (If-None-Match: *) of "
            f"{self.url(_PROBE)}, so two writers would overwrite each other. Use a store that refuses it, such as AWS "
            "S3, Cloudflare R2, SeaweedFS or a current MinIO, or a local directory."
        )

    def publish(self, key: str, write: Callable[[Path], None], *, settled: bool = True) -> bool:
        """Publish one file by one conditional write, which settles it. Raises StoreFull, StoreError."""
        with self._scratch() as directory:
            data = _written(directory / key.rpartition("/")[2], write)
        attempt = uuid.uuid4().hex
        try:
            with self._explained(key):
                store = self._uploads if len(data) > _SMALL else self._store
                obstore.put(store, key, data, attributes={_ATTEMPT: attempt}, mode="create")
        except StoreError as error:
            # The answer to a write that went through may have been lost, and a retry then meets our own object.
            if isinstance(error.__cause__, PermissionDeniedError | UnauthenticatedError):
                raise
            return self._stands(key, attempt, error)
        return True

    def exists(self, key: str) -> bool:
        """Whether a key is published. Raises StoreError."""
        with self._explained(key):
            try:
                obstore.head(self._store, key)
            except FileNotFoundError:
                return False
        return True

    def read(self, key: str) -> bytes:
        """A published object, whole. Raises MissingFile, StoreError."""
        return self.read_range(key, 0, None)

    def read_range(self, key: str, start: int, end: int | None) -> bytes:
        """Bytes `start` to `end` (exclusive; None: to the end) of an object. Raises MissingFile, StoreError."""
        with self._explained(key):
            if end is None:
                return bytes(memoryview(obstore.get(self._store, key).bytes()))[start:]
            return bytes(memoryview(obstore.get_range(self._store, key, start=start, end=end)))

    def facts(self, folder: str) -> dict[str, tuple[int, datetime.datetime]]:
        """Size in bytes and time of every object below a folder, by key. Raises StoreError."""
        with self._explained(folder):
            pages = obstore.list(self._store, folder or None)
            return {each["path"]: (each["size"], each["last_modified"]) for page in pages for each in page}

    def fact(self, key: str) -> tuple[int, datetime.datetime]:
        """Size in bytes and time of one object. Raises MissingFile, StoreError."""
        with self._explained(key):
            head = obstore.head(self._store, key)
            return head["size"], head["last_modified"]

    def keys(self, folder: str) -> list[str]:
        """Every key below a folder, sorted. Raises StoreError."""
        return sorted(self.facts(folder))

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted. Raises StoreError."""
        with self._explained(folder):
            prefixes = obstore.list_with_delimiter(self._store, folder or None)["common_prefixes"]
            return sorted(prefix.rpartition("/")[2] for prefix in prefixes)

    def commit(
        self,
        files: Sequence[tuple[str, Callable[[Path], None]]],
        *,
        after: str,
        seen: Callable[[], object],
    ) -> bool:
        """Publish files in their order; an object that is seen is durable. Raises StoreFull, StoreError."""
        new = [self.publish(key, write) for key, write in files][-1]
        seen()
        return new

    def remove(self, key: str) -> None:
        """Remove an object. Raises StoreError."""
        with self._explained(key), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, key)

    def sweep(self) -> int:
        """Nothing to do: there are no half uploads. The temporaries are the run directory's."""
        return 0

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let the connection read these objects, and no others, without any extension of DuckDB's."""
        connection.register_filesystem(ObjectFiles(self))

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[Path]:
        if self._tmp_root is not None:
            with temporary_directory(self._tmp_root) as directory:
                yield directory
        else:
            with tempfile.TemporaryDirectory(prefix="srpo-") as name:
                yield Path(name)

    def _stands(self, key: str, attempt: str, error: StoreError) -> bool:
        """Whether a write whose answer says no, or never came, stands all the same; raises `error` if nothing does."""
        try:
            with self._explained(key):
                found = obstore.get(self._store, key, options={"head": True})
                return found.attributes.get(_ATTEMPT) == attempt
        except StoreError:
            raise error from error.__cause__

    @contextlib.contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        """Turn an object store's error into a StoreError that names the URL and the remedy."""
        try:
            yield
        except (BaseError, OSError) as error:
            raise self._explain(error, self.url(key)) from error

    def _explain(self, error: Exception, url: str) -> StoreError:
        what = " ".join(str(error).partition("\n\nDebug source")[0].split())[:400]
        if "NoSuchBucket" in what or (isinstance(error, FileNotFoundError) and "performing PUT" in what):
            return StoreError(
                f"{url} cannot be written: there is no bucket {self._bucket!r}. Make it, or mend the URL or "
                f"AWS_ENDPOINT_URL. ({what})"
            )
        if isinstance(error, FileNotFoundError):
            return MissingFile(f"{url} is missing.")
        if isinstance(error, AlreadyExistsError):
            return StoreError(f"{url} was refused to us, and nothing stands there: resume the run. ({what})")
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or " 403 " in what or " 401 " in what:
            return StoreError(
                f"{url}: the store refused access. Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and "
                f"AWS_SESSION_TOKEN, and that they may list, read, write and delete below {self.root}. ({what})"
            )
        if " 507 " in what or "QuotaExceeded" in what:
            return StoreFull(f"{url} was not written: the store has no space left. Free some, then resume. ({what})")
        return StoreError(
            f"{url}: the store failed or could not be reached. What is committed stands: check the network, "
            f"AWS_ENDPOINT_URL and AWS_REGION, then resume the run. ({what})"
        )


class ObjectFiles(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """What DuckDB sees of an ObjectStore: its objects, to be read. Everything else is refused, however it is asked."""

    protocol = "s3"
    cachable = False  # fsspec would hand the same one to connections that look at different places

    def __init__(self, store: ObjectStore) -> None:
        """Show `store`; what it says of an object is asked once, since published objects do not change."""
        super().__init__()
        self._objects = store
        self._facts: dict[str, tuple[int, datetime.datetime]] = {}

    def glob(self, path: str, maxdepth: int | None = None, **options: Any) -> Any:
        """The paths that a pattern matches; of a store of runs, only what is asked for of each run is listed."""
        head, star, tail = path.partition("/*/")
        if not star or has_magic(head):
            return super().glob(path, maxdepth, **options)
        runs = self._objects.folders(self._key(head))
        return [each for run in runs for each in super(ObjectFiles, self).glob(f"{head}/{run}/{tail}", **options)]

    def find(self, path: str, maxdepth: int | None = None, withdirs: bool = False, **_: Any) -> dict[str, Any]:
        """Every object below a path, by its path: what fsspec matches a glob against. One listing."""
        del maxdepth, withdirs
        found = self._objects.facts(self._key(path))
        self._facts |= found
        return {self._path(key): {"type": "file"} for key in found}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and time of an object. Raises FileNotFoundError."""
        key = self._key(path)
        try:
            size, modified = self._facts.get(key) or self._objects.fact(key)
        except MissingFile as error:
            raise FileNotFoundError(str(error)) from error
        self._facts[key] = size, modified
        return {"name": self._path(key), "type": "file", "size": size, "modified": modified}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such an object; fsspec's own would take a store that cannot be reached for an empty one."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def modified(self, path: str) -> datetime.datetime:
        """When an object was published."""
        when: datetime.datetime = self.info(path)["modified"]
        return when

    def open(self, path: str, mode: str = "rb", **_: Any) -> "ObjectFile":
        """An object, for reading. Raises PermissionError for any other mode."""
        if mode != "rb":
            raise PermissionError(f"{path}: the history's objects are published once, and only read here")
        return ObjectFile(self._objects, self._key(path), self.info(path)["size"])

    def _key(self, path: str) -> str:
        inside = f"{self._strip_protocol(path)}/"
        root = self._strip_protocol(self._objects.root) + "/"
        if not inside.startswith(root) or ".." in inside.split("/"):
            raise PermissionError(f"{path} is not below {self._objects.root}, which alone may be read")
        return inside.removeprefix(root).rstrip("/")

    def _path(self, key: str) -> str:
        return str(self._strip_protocol(self._objects.url(key)))


class ObjectFile(io.RawIOBase):
    """An object as DuckDB reads it: by ranges, a small one whole."""

    def __init__(self, store: ObjectStore, key: str, size: int) -> None:
        """Open `key` of `size` bytes; nothing is asked for before the first read."""
        super().__init__()
        self._objects, self._key, self._size = store, key, size
        self._whole: bytes | None = None
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Where the next read begins, in bytes."""
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to where the next read begins."""
        self._place = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        return self._place

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (negative: to the end). Raises StoreError."""
        end = self._size if size < 0 else min(self._size, self._place + size)
        start, self._place = self._place, max(end, self._place)
        if start >= end:
            return b""
        if self._size > _SMALL:
            return self._objects.read_range(self._key, start, end)
        if self._whole is None:
            self._whole = self._objects.read(self._key)
        return self._whole[start:end]


def _written(path: Path, write: Callable[[Path], None]) -> bytes:
    """What `write` writes into the file `path`. Raises StoreFull, StoreError."""
    try:
        path.touch()
        write(path)
        return path.read_bytes()
    except OSError as error:
        raise explain(error, path) from error
