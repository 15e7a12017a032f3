"""A run on disk: its directory, its settings, its history and its policies.

STORE/<run>/settings.yaml      every setting, as the run began
STORE/<run>/changes/           what of them was changed since, a file each time
STORE/<run>/selector-*.sql     the rule that chooses prompts, as the run began; its name tells its SHA-256
STORE/<run>/policies/          published policy versions
STORE/<run>/data, index, ...   the history, laid out by `storage`; elsewhere when `history.url` says so
"""

import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from flows.selection import kept_rule, rule_file, tried_rule
from flows.settings_log import read_changes
from srpo_core.config import Settings
from srpo_core.settings_file import dump_settings, load_settings, with_values
from storage.files import publish_file
from storage.history import RunHistory
from storage.selectors import Rule
from storage.stores import Store, open_store

RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class RunError(Exception):
    """A run that cannot be used as asked; the message says what to do."""


class WrongUseError(RunError):
    """What was asked for cannot be, such as a run that is not there; the message says what can."""


@dataclass(frozen=True)
class Run:
    """One run of a store."""

    store: Path
    name: str

    @property
    def directory(self) -> Path:
        """Where everything of the run lies."""
        return self.store / self.name

    @cached_property
    def settings(self) -> Settings:
        """Those that the run began with, and what was changed since. Raises SettingsError for a damaged file."""
        settings = load_settings(self.directory / "settings.yaml")
        for changes in read_changes(self.directory):
            settings = with_values(settings, changes.values)
        return settings

    @cached_property
    def history(self) -> RunHistory:
        """The run's committed history, where its settings keep it. Raises StoreError for a URL that names no place."""
        return _history(self, self.settings)

    @cached_property
    def rule(self) -> Rule:
        """The selector's rule that the run began with. Raises SelectorError when it is gone or changed."""
        return kept_rule(self.directory, self.settings.resampling.selector)

    @property
    def report(self) -> Path:
        """The run's report, a single HTML file."""
        return self.directory / "report.html"

    def policy(self, version: int) -> Path:
        """The directory of a policy version."""
        return self.directory / policy_path(version)

    @contextmanager
    def locked(self, wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold the run for this process, which decides what is done next; the lock goes with it, however it ends.

        While another process holds it, `wait()` is called again and again. Raises what that raises, RunError without.
        """
        with self._locked(".lock", wait or self._refuse):
            yield

    @contextmanager
    def locked_stage(self, kind: str, wait: Callable[[], None]) -> Iterator[None]:
        """Hold one kind of work of the run, which may be done in a process of its own, and outlive the run's.

        While another process holds it, `wait()` is called again and again; what that raises ends the waiting.
        """
        with self._locked(f".lock-{kind}", wait):
            yield

    def is_at_work(self, kind: str) -> bool:
        """Whether some process holds this kind of work of the run."""
        with self._try_lock(f".lock-{kind}") as mine:
            return not mine

    def _refuse(self) -> None:
        raise RunError(f"run {self.name} is held by another process; wait for it or stop it")

    @contextmanager
    def _locked(self, name: str, wait: Callable[[], None]) -> Iterator[None]:
        while True:
            with self._try_lock(name) as mine:
                if mine:
                    yield
                    return
            wait()

    @contextmanager
    def _try_lock(self, name: str) -> Iterator[bool]:
        with (self.directory / name).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    @property
    def is_locked(self) -> bool:
        """Whether some process is working on the run."""
        try:
            with self.locked():
                return False
        except RunError:
            return True


def policy_path(version: int) -> str:
    """Where a policy version lies, relative to the run's directory."""
    return f"policies/version-{version:06d}"


def open_run(store: Path, name: str) -> Run:
    """The run `name` of `store`. Raises WrongUseError, naming the runs that there are."""
    run = Run(store, name)
    if not RUN_NAME.fullmatch(name) or not (run.directory / "settings.yaml").is_file():
        known = sorted(path.parent.name for path in store.glob("*/settings.yaml"))
        there = f"it has {', '.join(known)}" if known else "it has none yet"
        raise WrongUseError(f"there is no run {name!r} in {store}: {there}; `srpo run` starts one")
    return run


def newest_version(run: Run) -> int:
    """The newest published policy version. Raises RunError before there is one."""
    versions = run.history.read("policies")["version"].to_pylist()
    if not versions:
        raise RunError(f"run {run.name} has no policy yet: start it with `srpo resume {run.name}`")
    return int(max(versions))


def create_run(store: Path, name: str, settings: Settings) -> Run:
    """The run `name` of `store`, begun with `settings`; one that is there is taken as it is, whatever its settings.

    Raises WrongUseError for a name that cannot be a directory, and for a run that began with another text of its
    selector's file; SettingsError for a selector that cannot be used.
    """
    if not RUN_NAME.fullmatch(name):
        raise WrongUseError(f"{name!r} cannot name a run: use letters, digits, '.', '_' and '-', at most 64 of them")
    run = Run(store, name)
    if not (run.directory / "settings.yaml").is_file():
        _refuse_foreign_history(run, settings)
        _begin(run, settings)
    _refuse_other_rule(run, settings)
    return run


def open_history(store: Path, target: str) -> Store:
    """Where the history is that `target` names: a run of `store`, a directory of one run or of many, or a URL.

    Raises WrongUseError for what is none of these, StoreError for a URL that names no place.
    """
    if "://" in target:
        return open_store(target)
    named = RUN_NAME.fullmatch(target) is not None and (store / target).is_dir()
    directory = store / target if named else Path(target)
    if (directory / "settings.yaml").is_file():
        return Run(directory.absolute().parent, directory.absolute().name).history.store
    return open_store(directory) if directory.is_dir() else open_run(store, target).history.store


def _history(run: Run, settings: Settings) -> RunHistory:
    history = RunHistory(run.directory, run.name)
    if settings.history.url is None:
        return history
    store = open_store(f"{settings.history.url.rstrip('/')}/{run.name}", history.tmp_root)
    return RunHistory(run.directory, run.name, store)


def _refuse_foreign_history(run: Run, settings: Settings) -> None:
    history = _history(run, settings)
    if settings.history.url is not None and history.has("prompts", stage=0, epoch=0):
        raise WrongUseError(
            f"{history.store.root} keeps the history of a run whose directory is not {run.directory}: choose another "
            "--run-id or another history.url, or put that directory back"
        )


def _refuse_other_rule(run: Run, settings: Settings) -> None:
    own, began = Path(settings.resampling.selector), run.settings.resampling.selector
    if own.suffix == ".sql" and str(own) == began and own.exists() and own.read_text("utf-8") != run.rule.text:
        raise WrongUseError(
            f"{own} was changed since run {run.name} began: choose another --run-id, or `srpo resume {run.name}`, "
            "which goes on with the rule that it began with"
        )


def _begin(run: Run, settings: Settings) -> None:
    """Publish the run's rule and, last, its settings, with which it exists."""
    rule, text, history = tried_rule(settings), dump_settings(settings), _history(run, settings)
    history.create()
    for path, content in ((rule_file(run.directory, rule), rule.text), (run.directory / "settings.yaml", text)):
        publish_file(path, history.tmp_root, _writer(content))


def _writer(content: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_text(content, encoding="utf-8")

    return write
