"""The problems that a run's settings ask for."""

from collections.abc import Callable, Iterable

from flows.runs import RunError
from srpo_core.config import Settings
from srpo_core.problems.datasets import Loaded, load_dataset
from srpo_core.problems.lab.world import DOMAINS, MAX_DIFFICULTY, Split, lab_problems
from srpo_core.problems.overlap import find_overlaps
from srpo_core.problems.problem import Problem
from srpo_core.problems.rows import DataError
from srpo_core.settings.problems import DatasetSettings, DataSettings, LabSettings

Tell = Callable[[str], None]
"""What takes a line for people, such as `announce`."""


def run_problems(settings: Settings, tell: Tell) -> tuple[list[Problem], list[Problem]]:
    """The training and the held-out problems that the settings ask for; `tell` hears what was left out.

    No problem is in both, and no training problem resembles a held-out one. Raises RunError when there are not so many,
    when a data set cannot be read, when there is no math to train on (stage 1 is math), and for an overlap that is to
    be refused.
    """
    heldout = heldout_problems(settings, tell)
    if not isinstance(settings.problems, DataSettings):
        train = _lab(settings, "train")
    else:
        train = _without_overlap(_read(settings.problems.train, settings.seed, tell), heldout, settings.problems, tell)
        if not any(problem.domain == "math" for problem in train):
            raise RunError("problems.train: no math problem is there to train on, and stage 1 is math")
    shared = {problem.id for problem in train} & {problem.id for problem in heldout}
    if shared:
        raise RunError(f"problems: {len(shared)} are both trained on and held out, such as {min(shared)}")
    return train, heldout


def heldout_problems(settings: Settings, tell: Tell) -> list[Problem]:
    """The held-out problems that the settings ask for; `tell` hears what was left out. Raises RunError."""
    if isinstance(settings.problems, DataSettings):
        return _read(settings.problems.heldout, settings.seed, tell)
    return _lab(settings, "heldout")


def lab_heldout(settings: Settings) -> list[Problem]:
    """The lab's held-out problems: as many as the settings say, or by default where they name data sets instead."""
    lab = LabSettings() if isinstance(settings.problems, DataSettings) else settings.problems
    return _lab(settings.model_copy(update={"problems": lab}), "heldout")


def tell_refused(loaded: Loaded, tell: Tell) -> None:
    """Say how many rows of a data set gave no problem, and why."""
    for reason, count in loaded.reasons.items():
        tell(f"{loaded.origin}: {count} rows left out: {reason}")


def _lab(settings: Settings, split: Split) -> list[Problem]:
    sizes = settings.problems
    assert not isinstance(sizes, DataSettings)
    cells = [(domain, difficulty) for domain in DOMAINS for difficulty in range(1, MAX_DIFFICULTY + 1)]
    try:
        return lab_problems(
            split, dict.fromkeys(cells, sizes.train if split == "train" else sizes.heldout), settings.seed
        )
    except ValueError as error:
        raise RunError(f"problems: {error}") from error


def _read(sources: Iterable[DatasetSettings], seed: int, tell: Tell) -> list[Problem]:
    """The problems of several data sets, each content once: the first that has it counts."""
    problems: dict[str, Problem] = {}
    for source in sources:
        try:
            loaded = load_dataset(source, seed=seed)
        except DataError as error:
            raise RunError(f"problems: {error}") from error
        tell_refused(loaded, tell)
        new = {problem.id: problem for problem in loaded.problems if problem.id not in problems}
        if repeated := len(loaded.problems) - len(new):
            tell(f"{loaded.origin}: {repeated} problems left out: an earlier data set has them too")
        problems |= new
    return list(problems.values())


def _without_overlap(train: list[Problem], heldout: list[Problem], settings: DataSettings, tell: Tell) -> list[Problem]:
    places = find_overlaps([problem.question for problem in train], [problem.question for problem in heldout])
    found = {problem.id: place for problem, place in zip(train, places, strict=True) if place is not None}
    if not found:
        return train
    some, place = next(iter(found.items()))
    told = f"{len(found)} training problems are held out too, or resemble one that is, such as {some} and "
    told += f"{heldout[place].id} ({heldout[place].source})"
    if settings.overlap == "refuse":
        raise RunError(f"problems: {told}; `problems.overlap: drop` leaves them out, `srpo data curate` lists them")
    tell(f"{told}: left out")
    return [problem for problem in train if problem.id not in found]
