"""Moments of a run, told by what it has published: the files of an undisturbed run in their order, and the gaps.

A moment is *a file by its name, and a part of the gap to the next file*. The name is exact on any machine; the part is
of the seconds that the gap took in the undisturbed run, so where in the gap the kill lands depends on how fast the
machine is just then. A seed repeats which gaps are hit and how deep is aimed, not the instruction that dies.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

KINDS = ("prepare", "rollout", "update", "resample", "evaluate", "transition")
BOUNDARIES = ("step", "epoch", "stage")
_PLACE = re.compile(r"/run=[^/]+/stage=(\d+)/epoch=(\d+)/(?:step=(\d+)/)?([a-z0-9]+)")
_TABLES = {"visits": "resample", "evaluations": "evaluate", "evaluation_rollouts": "evaluate"}


@dataclass(frozen=True)
class Gap:
    """Between two published files of a run, relative to its directory, `seconds` apart in the undisturbed run."""

    after: str
    before: str
    seconds: float

    @property
    def kind(self) -> str:
        """The stage that works there, one of KINDS; `srpo` where it is the run's own process."""
        table, (stage, epoch, name) = self.before.split("/")[1], _place(self.before)[:3]
        if self.before.startswith(("data/", "index/")):
            return "rollout"
        if table in ("decisions", "epochs"):
            return "resample" if epoch else "prepare" if stage == 1 else "transition"
        if table == "policies":
            return "update" if stage else "prepare"
        if table == "metrics":
            return name if name in KINDS else "srpo"
        return "prepare" if table == "prompts" else _TABLES.get(table, "srpo")

    @property
    def boundary(self) -> str | None:
        """Which boundary lies there, one of BOUNDARIES: what is committed is a whole step, epoch or stage."""
        if not (self.before.startswith("data/") and self.before.endswith("shard-000.parquet")):
            return None
        stage, epoch, _, step = _place(self.before)
        if step:
            return "step"
        return "epoch" if epoch else "stage" if stage > 1 else None


@dataclass(frozen=True)
class Moment:
    """`seconds` after the file `after` was published, or after the process began if it is there already."""

    after: str
    seconds: float
    where: str  # the gap's kind, or its boundary, for people


def published(run: Path) -> list[Path]:
    """Everything that the run in this directory published into its history, in no order."""
    found = (path for place in ("data", "index", "tables") for path in run.joinpath(place).rglob("*.parquet"))
    return [path for path in found if path.name != "empty.parquet"]


def gaps_of(run: Path) -> list[Gap]:
    """The gaps of an undisturbed run, in order."""
    files = sorted(published(run), key=lambda path: path.stat().st_mtime_ns)
    return [
        Gap(str(one.relative_to(run)), str(other.relative_to(run)), other.stat().st_mtime - one.stat().st_mtime)
        for one, other in pairwise(files)
    ]


def draw(gaps: Sequence[Gap], count: int, dice: random.Random) -> list[Moment]:
    """`count` moments in the order in which a run comes by them.

    Every other one is drawn from all files alike, the rest from all time alike: most files come in bursts, and most
    time passes in a few gaps.
    """
    places = range(len(gaps))
    chosen = [dice.choices(places, [gap.seconds for gap in gaps] if n % 2 else None)[0] for n in range(count)]
    return [within(gaps[place], dice) for place in sorted(chosen)]


def draw_in(gaps: Sequence[Gap], where: str, dice: random.Random) -> Moment:
    """A moment while a kind of stage works, or at a kind of boundary."""
    return within(dice.choice([gap for gap in gaps if where in (gap.kind, gap.boundary)]), dice)


def in_order(moments: Sequence[Moment], gaps: Sequence[Gap]) -> list[Moment]:
    """The moments in the order in which a run comes by them."""
    order = {gap.after: place for place, gap in enumerate(gaps)}
    return sorted(moments, key=lambda moment: order[moment.after])


def within(gap: Gap, dice: random.Random) -> Moment:
    """A moment of the gap."""
    return Moment(gap.after, gap.seconds * dice.random(), gap.boundary or gap.kind)


def _place(file: str) -> tuple[int, int, str, int]:
    found = _PLACE.search(file)
    assert found is not None, file
    stage, epoch, step, name = found.groups()
    return int(stage), int(epoch), name, int(step or 0)
