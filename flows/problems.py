"""The problems that a run's settings ask for."""

from flows.runs import RunError
from srpo_core.config import Settings
from srpo_core.problems.lab.world import DOMAINS, MAX_DIFFICULTY, lab_problems
from srpo_core.problems.problem import Problem


def run_problems(settings: Settings) -> tuple[list[Problem], list[Problem]]:
    """The training and the held-out problems that the settings ask for.

    Raises RunError when the world has not so many, or when the two have a problem in common.
    """
    cells = [(domain, difficulty) for domain in DOMAINS for difficulty in range(1, MAX_DIFFICULTY + 1)]
    sizes = settings.problems
    try:
        train = lab_problems("train", dict.fromkeys(cells, sizes.train), settings.seed)
        heldout = lab_problems("heldout", dict.fromkeys(cells, sizes.heldout), settings.seed)
    except ValueError as error:
        raise RunError(f"problems: {error}") from error
    shared = {problem.id for problem in train} & {problem.id for problem in heldout}
    if shared:
        raise RunError(f"problems: {len(shared)} are both trained on and held out, such as {min(shared)}")
    return train, heldout
