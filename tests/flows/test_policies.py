"""Which policy versions stay on disk."""

from collections.abc import Callable
from pathlib import Path

import pytest

from flows.policies import prune
from flows.runs import Run, create_run
from srpo_core.config import Settings


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A run of ten versions, whose second epoch begins with version 4."""

    def made(**settings: int) -> Run:
        run = create_run(
            tmp_path,
            "r1",
            Settings.model_validate({"keep_policies": 2, "stages": {"math": {"max_steps": 1}}, **settings}),
        )
        for epoch, first in enumerate((0, 4)):
            plan = {"prompts": 1, "steps": 4, "first_version": first, "selector": "history"}
            run.history.publish("epochs", [plan], stage=1, epoch=epoch)
        for version in range(10):
            run.policy(version).mkdir(parents=True)
        return run

    return made


def kept(run: Run) -> list[int]:
    prune(run, 9)
    return sorted(int(path.name.removeprefix("version-")) for path in (run.directory / "policies").iterdir())


def test_the_newest_and_those_that_epochs_began_with_stay(make_run: Callable[..., Run]) -> None:
    assert kept(make_run()) == [0, 4, 8, 9]


def test_every_nth_version_stays_where_that_is_asked_for(make_run: Callable[..., Run]) -> None:
    assert kept(make_run(keep_policies_every=3)) == [0, 3, 4, 6, 8, 9]
