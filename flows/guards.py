"""The limits of `guards`: whether a run is beyond one, told by what is committed and by the disk as it is now."""

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows.runs import Run, RunError

_TOKENS = "SELECT stage, epoch, step, sum(completion_tokens)::BIGINT AS tokens FROM rollouts GROUP BY ALL"
_SECONDS = """
    SELECT stage, epoch, step, kind, sum(value) AS seconds FROM metrics
    WHERE name LIKE 'timing_s/%' AND kind IN ('rollout', 'update', 'evaluate') GROUP BY ALL
"""

_Place = tuple[int, int, int]  # stage, epoch, step


class LimitReachedError(RunError):
    """A run that stops at a limit of its own; what is committed stands, and it goes on once the limit is raised."""


@dataclass(frozen=True)
class Beyond:
    """A limit that is reached: its setting, and how."""

    setting: str
    how: str


def check_disk(run: Run) -> None:
    """Raise LimitReachedError when less space is free in the store than the run wants."""
    _stop(run, _short_of_space(run))


class Guards:
    """The limits of a run. What is committed is counted once; after that the steps of one epoch, as they come."""

    def __init__(self, run: Run, *, stage: int = 0, epoch: int = 0) -> None:
        self._run, self._limits = run, run.settings.guards
        self._stage, self._epoch = stage, epoch
        self._tokens: dict[_Place, int] | None = None
        self._seconds: dict[tuple[str, _Place], float] | None = None

    def check(self) -> None:
        """Raise LimitReachedError when the run is beyond one of its limits."""
        _stop(self._run, self.beyond())

    def beyond(self) -> Beyond | None:
        """The first limit that is reached; None: none is."""
        limits = self._limits
        if short := _short_of_space(self._run):
            return short
        if limits.max_tokens is not None and (tokens := self._count_tokens()) >= limits.max_tokens:
            return Beyond("guards.max_tokens", f"{tokens:,} tokens were sampled, the limit is {limits.max_tokens:,}")
        if limits.max_hours is not None and (hours := self._count_hours()) >= limits.max_hours:
            return Beyond("guards.max_hours", f"{hours:.3g} hours were worked, the limit is {limits.max_hours:g}")
        return None

    def _count_tokens(self) -> int:
        history = self._run.history
        if self._tokens is None:
            rows = history.sql(_TOKENS).to_pylist()
            self._tokens = {(row["stage"], row["epoch"], row["step"]): row["tokens"] for row in rows}
        step = _first_missing(self._tokens, self._stage, self._epoch)
        while history.is_committed(*step):
            self._tokens[step] = self._tokens_of(step)
            step = _first_missing(self._tokens, self._stage, self._epoch)
        return sum(self._tokens.values())

    def _tokens_of(self, place: _Place) -> int:
        history, tokens, shard = self._run.history, 0, 0
        while history.has_shard(*place, shard):
            tokens += sum(history.read_shard(*place, shard, ["completion_tokens"])["completion_tokens"].to_pylist())
            shard += 1
        return tokens

    def _count_hours(self) -> float:
        if self._seconds is None:
            rows = self._run.history.sql(_SECONDS).to_pylist()
            self._seconds = {(row["kind"], (row["stage"], row["epoch"], row["step"])): row["seconds"] for row in rows}
        for kind in ("rollout", "update"):
            self._add_seconds(kind, self._seconds)
        return self._worked(self._seconds) / 3600

    def _add_seconds(self, kind: str, seconds: dict[tuple[str, _Place], float]) -> None:
        history, stage, epoch = self._run.history, self._stage, self._epoch
        while True:
            step = _first_missing({place for which, place in seconds if which == kind}, stage, epoch)
            name = f"{kind}-{step[2]:06d}"
            if not history.has("metrics", stage=stage, epoch=epoch, name=name):
                return
            rows = history.read("metrics", stage=stage, epoch=epoch, name=name).to_pylist()
            seconds[kind, step] = sum(row["value"] for row in rows if row["name"].startswith("timing_s/"))

    def _worked(self, seconds: dict[tuple[str, _Place], float]) -> float:
        """Seconds in all; what rollouts and updates of an epoch do at the same time counts once."""
        epochs: dict[tuple[int, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for (kind, (stage, epoch, _)), value in seconds.items():
            epochs[stage, epoch][kind] += value
        asynchronous = self._run.settings.rollout.max_staleness > 0
        total = 0.0
        for work in epochs.values():
            both = (work["rollout"], work["update"])
            total += (max(both) if asynchronous else sum(both)) + work["evaluate"]
        return total


def _stop(run: Run, beyond: Beyond | None) -> None:
    if beyond is not None:
        raise LimitReachedError(
            f"run {run.name} stops at {beyond.setting}: {beyond.how}. What is committed stands, and "
            f"`srpo resume {run.name} --set {beyond.setting}=...` goes on with another limit"
        )


def _short_of_space(run: Run) -> Beyond | None:
    least = run.settings.guards.min_free_gb
    for directory in _directories(run) if least else ():
        if (free := _free_gb(directory)) < least:
            return Beyond("guards.min_free_gb", f"{free:.3g} GB are free in {directory}, less than {least:g}")
    return None


def _first_missing(places: set[_Place] | dict[_Place, int], stage: int, epoch: int) -> _Place:
    """The first step of the epoch that is not among the places: steps are committed in order."""
    known = [step for s, e, step in places if (s, e) == (stage, epoch)]
    return stage, epoch, max(known, default=-1) + 1


def _directories(run: Run) -> list[Path]:
    """The directories of this machine that the run writes to."""
    url = urlsplit(run.settings.history.url or "")
    return [run.directory, *([Path(unquote(url.path))] if url.scheme == "file" else [])]


def _free_gb(directory: Path) -> float:
    there = os.statvfs(directory)
    return there.f_bavail * there.f_frsize / 1e9
