"""Publish-once files on a local disk: a file appears whole and durable under its final name, or not at all.

A writer fills `_tmp/<uuid>`, which is then fsynced and hard-linked to its final name. A link never replaces an
existing file, so the first writer wins and every later attempt adopts what stands: a retried sampler draws other
tokens, and replacing a file would swap data under a reader. Whoever holds a temporary holds a lock on it; what
nobody holds is an orphan of a killed process, and `sweep` removes it.

Needs a file system with hard links and `flock` (every ordinary local one). `LocalStore` is a store over it, as
`storage.stores.Store` describes.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_FSYNCS = ThreadPoolExecutor(8, thread_name_prefix="srpo-fsync")  # its threads start with the first fsync
_NO_LINKS = {errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class StoreError(Exception):
    """A store cannot do what was asked: the message says what happened, to which file, and what to do."""


class StoreFull(StoreError):  # noqa: N818 - named for what happened
    """No space is left for a file; nothing was published, and what stood before still stands."""


class CorruptFile(StoreError):  # noqa: N818 - named for what was found
    """A published file is missing, cut short, or holds other bytes than were committed."""


class MissingFile(CorruptFile):
    """There is no file under the name that was asked for."""


class LocalStore:
    """A directory of published files (see `storage.stores.Store`); temporaries are in its `_tmp`."""

    def __init__(self, directory: Path) -> None:
        """Name a directory; nothing is touched."""
        self._directory = directory.absolute()

    @property
    def root(self) -> str:
        """The directory's absolute path."""
        return str(self._directory)

    @property
    def pattern(self) -> str:
        """The directory as a glob that matches it alone."""
        return re.sub(r"[\[*?]", r"[\g<0>]", self.root)

    def url(self, key: str) -> str:
        """The path of a key."""
        return str(self._directory / key)

    def create(self) -> None:
        """Make the directory; refuse a file system without hard links or locks. Raises StoreError."""
        tmp_root = self._directory / "_tmp"
        with _explained(self._directory):
            make_directory(tmp_root)
            _probe(tmp_root)

    def publish(self, key: str, write: Callable[[Path], None], *, settled: bool = True) -> bool:
        """Publish one file, see `publish_file`. Raises StoreFull, StoreError."""
        return publish_file(self._directory / key, self._directory / "_tmp", write, settled=settled)

    def commit(
        self, files: Sequence[tuple[str, Callable[[Path], None]]], *, after: str, seen: Callable[[], object]
    ) -> bool:
        """Publish files in their order, after what is in a folder. Raises StoreFull, StoreError."""
        folder = self._directory / after
        above = [path for path in folder.parents if path.is_relative_to(self._directory)]
        finals = [self._directory / key for key, _ in files]
        with _explained(finals[-1]), contextlib.ExitStack() as held:
            temporaries = [held.enter_context(_held_file(self._directory / "_tmp")) for _ in files]
            for temporary, (_, write) in zip(temporaries, files, strict=True):
                write(temporary)
            fsync_all([*temporaries, folder, *above])
            for temporary, final in zip(temporaries, finals, strict=True):
                make_directory(final.parent)
                new = _link(temporary, final)
            seen()
            fsync_all({final.parent for final in finals})
            return new

    def exists(self, key: str) -> bool:
        """Whether a key is published. Raises StoreError."""
        with _explained(self._directory / key):
            return (self._directory / key).exists()

    def read(self, key: str) -> bytes:
        """A published file, whole. Raises MissingFile, CorruptFile."""
        path = self._directory / key
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise MissingFile(f"{path} is missing.") from error
        except OSError as error:
            raise CorruptFile(
                f"{path} cannot be read ({error.strerror}): check the disk and its permissions."
            ) from error

    def keys(self, folder: str) -> list[str]:
        """Every key below a folder, sorted. Raises StoreError."""
        with _explained(self._directory / folder):
            found = [path for path in (self._directory / folder).rglob("*") if path.is_file()]
        return sorted(path.relative_to(self._directory).as_posix() for path in found)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders directly in a folder, sorted. Raises StoreError."""
        path = self._directory / folder
        with _explained(path):
            return sorted(each.name for each in path.iterdir() if each.is_dir()) if path.is_dir() else []

    def remove(self, key: str) -> None:
        """Remove a published file, durably. Raises StoreError."""
        path = self._directory / key
        with _explained(path):
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                fsync(path.parent)

    def sweep(self) -> int:
        """Remove temporaries that no living process holds; returns how many. Raises StoreError."""
        return sweep(self._directory / "_tmp")

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Nothing to do: DuckDB reads local files."""


def publish_file(final: Path, tmp_root: Path, write: Callable[[Path], None], *, settled: bool = True) -> bool:
    """Publish one file: True when `final` is now what `write` wrote, False when another attempt was first.

    `write` gets the path of an empty temporary in `tmp_root` (same file system as `final`) and fills it.
    Parent directories of `final` are made. Without `settled` a power cut may still take the file's name away, never a
    part of its content. Raises StoreFull, StoreError; whatever `write` raises passes through.
    """
    if final.exists():
        return False
    with _explained(final), _held_file(tmp_root) as temporary:
        write(temporary)
        fsync(temporary)
        if not settled:
            final.parent.mkdir(parents=True, exist_ok=True)
            return _link(temporary, final)
        make_directory(final.parent)
        published = _link(temporary, final)
        fsync(final.parent)
        return published


def publish_directory(prepared: Path, final: Path) -> bool:
    """Publish a filled directory by renaming it: True when it is now `final`, False when another was first.

    `prepared` is gone afterwards either way. Raises StoreFull, StoreError.
    """
    with _explained(final):
        if not prepared.is_dir():
            raise StoreError(f"{prepared} is no directory, so {final} cannot be published: prepare it again.")
        fsync_all([*prepared.rglob("*"), prepared])
        make_directory(final.parent)
        try:
            os.rename(prepared, final)
            published = True
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            shutil.rmtree(prepared)
            published = False
        fsync(final.parent)
        return published


def replace_file(final: Path, tmp_root: Path, write: Callable[[Path], None]) -> None:
    """Put a file in place of `final`, whole: only for files that can be made again from others (the catalog).

    `write` gets a path at which nothing exists yet. Raises StoreFull, StoreError.
    """
    with _explained(final), temporary_directory(tmp_root) as directory:
        write(directory / final.name)
        fsync(directory / final.name)
        os.replace(directory / final.name, final)
        fsync(final.parent)


@contextlib.contextmanager
def temporary_directory(tmp_root: Path) -> Iterator[Path]:
    """A directory in `tmp_root` that `sweep` leaves alone while it is held; what is left of it goes at the end.

    Fill it, then `publish_directory(it, final)` inside the `with`. Raises StoreError.
    """
    with _explained(tmp_root), _held(tmp_root, os.mkdir) as path:
        yield path


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents, durably: after a power cut they are still there."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


def remove_directory(path: Path, tmp_root: Path) -> None:
    """Remove a published directory at once: it leaves its name whole, so that nobody meets half of it.

    Raises StoreError.
    """
    with _explained(path), temporary_directory(tmp_root) as directory:
        os.rename(path, directory / path.name)


def sweep(tmp_root: Path) -> int:
    """Remove temporaries that no living process holds; returns how many (files and directories). Raises StoreError."""
    removed = 0
    with _explained(tmp_root):
        for path in tmp_root.iterdir() if tmp_root.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # its owner published it in the meantime
                if (lock := _try_lock(path)) is not None:
                    _remove(path)
                    os.close(lock)
                    removed += 1
    return removed


@contextlib.contextmanager
def _held_file(tmp_root: Path) -> Iterator[Path]:
    with _held(tmp_root, lambda path: path.touch(exist_ok=False)) as path:
        yield path


@contextlib.contextmanager
def _held(tmp_root: Path, make: Callable[[Path], object]) -> Iterator[Path]:
    """Make a temporary, lock it, hand it out, and remove what is left of it, whatever happens."""
    if not tmp_root.is_dir():
        raise StoreError(
            f"{tmp_root} does not exist, so {tmp_root.parent} is not a run's directory (or was removed while in use): "
            "check the path, or make it with RunHistory.create()."
        )
    lock = None
    try:
        while lock is None:  # a sweep may have caught the temporary before its lock: take another
            path = tmp_root / uuid.uuid4().hex
            make(path)
            lock = _try_lock(path)
        yield path
    finally:
        if lock is not None:
            os.close(lock)
        _remove(path)


def _try_lock(path: Path) -> int | None:
    """A descriptor that holds the lock on `path`, or None when somebody else holds it or `path` is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _probe(tmp_root: Path) -> None:
    """Refuse a file system on which a second link would replace the first, or a lock would keep nobody out."""
    with _held_file(tmp_root) as first, _held_file(tmp_root) as second:
        published = first.with_name(f"{first.name}-probe")
        try:
            if not _link(first, published) or _link(second, published):
                raise StoreError(
                    f"{tmp_root.parent} cannot keep a history: a second hard link replaced the first, so two writers "
                    "would overwrite each other. Keep the store on a local file system (ext4, xfs, btrfs, tmpfs)."
                )
        finally:
            published.unlink(missing_ok=True)
        if (lock := _try_lock(first)) is not None:
            os.close(lock)
            raise StoreError(
                f"{tmp_root.parent} cannot keep a history: its file system's locks (flock) keep nobody out, so a "
                "living writer's files would be swept away. Keep the store on a local file system (ext4, xfs, btrfs, "
                "tmpfs)."
            )


def _link(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    except OSError as error:
        # EPERM is what Linux says for a file system without hard links, as well as for a refused directory.
        if error.errno in _NO_LINKS or (error.errno == errno.EPERM and os.access(final.parent, os.W_OK)):
            raise StoreError(
                f"{final} cannot be published: its file system makes no hard links from {temporary.parent} "
                f"({os.strerror(error.errno or 0)}). Keep the store on one local file system with hard links "
                "(ext4, xfs, btrfs, tmpfs)."
            ) from error
        raise
    return True


def fsync(path: Path) -> None:
    """Make a file's content, or a directory's entries, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_all(paths: Iterable[Path]) -> None:
    """Make several durable at once, in the time of one: a journal writes together what waits. Raises OSError."""
    for _ in _FSYNCS.map(fsync, paths):
        pass


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn an operating system's error into a StoreError that names the file and the remedy."""
    try:
        yield
    except OSError as error:
        raise explain(error, target) from error


def explain(error: OSError, target: Path) -> StoreError:
    """The StoreError that says what an OSError at `target` means for the person who meets it."""
    what = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_SPACE:
        return StoreFull(
            f"{target} was not written: no space is left ({what}). Nothing of it was published and earlier "
            "files stand: free some space or raise the quota, then resume the run."
        )
    if error.errno in _REFUSED:
        return StoreError(
            f"{target} may not be written ({what}): give this user write permission on {target.parent}, "
            "or choose another store directory."
        )
    if error.errno in {errno.ENOENT, errno.ENOTDIR}:
        return StoreError(
            f"{target} cannot be reached: {error.filename or target.parent} is missing or not a directory ({what}). "
            "Check the store's path; if it was moved or removed while in use, put it back and resume."
        )
    return StoreError(f"{target} failed: {what}. Check the disk that holds {target.parent}, then resume the run.")
