"""The bench: `python -m bench.chaos [--quick] [--kills 200] [--seed 0] [--mode inline|deployments|both]`.

Runs are killed again and again, until enough kills are done; each is compared with an undisturbed one.
bench/chaos/moments.py says what of a seed can be repeated. A faulty run is kept, and told where.
"""

import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from bench.chaos.campaign import Reference, Result, campaign, reference
from bench.figures import Figure, Options, parser, tell

_SETTINGS = Path(__file__).parents[2] / "tests" / "flows" / "tiny.yaml"
_PER_RUN = {"inline": 10, "deployments": 4}


def main() -> None:
    """Do what the command line asks for; exit status 1 when any run was not what it must be."""
    command = parser(str(__doc__).partition("\n")[0])
    command.add_argument("--kills", type=int, default=200, help="how many, over as many runs as it takes [200]")
    command.add_argument("--seed", type=int, default=0, help="what the moments and the victims are drawn from [0]")
    command.add_argument("--mode", choices=("inline", "deployments", "both"), help="[both; inline if --quick]")
    command.add_argument("--settings", type=Path, default=_SETTINGS, help="of the run [tests/flows/tiny.yaml]")
    asked = command.parse_args()
    mode = asked.mode or ("inline" if asked.quick else "both")
    modes = ("inline", "deployments") if mode == "both" else (mode,)
    kills, per_run = (6, {"inline": 6, "deployments": 2}) if asked.quick else (asked.kills, _PER_RUN)
    directory = Path(tempfile.mkdtemp(prefix="srpo-chaos-"))
    references = {mode: reference(directory / f"undisturbed-{mode}", asked.settings, mode) for mode in modes}
    results = []
    for result in campaign(
        directory, asked.settings, references=references, kills=kills, per_run=per_run, seed=asked.seed
    ):
        results.append(result)
        print(_line(len(results), result), flush=True)
    tell(figures(results, references), Options(asked.quick, asked.json))
    if any(result.faults for result in results):
        sys.exit(f"not all is well; the runs, their logs and their plans are in {directory}")
    shutil.rmtree(directory)


def figures(results: list[Result], references: dict[str, Reference]) -> list[Figure]:
    """What was done, what must be zero, and what a kill costs."""
    kills = [kill for result in results for kill in result.outcome.kills]
    victims = Counter(kill.victim for kill in kills)
    ways = Counter(way for result in results for way in result.outcome.resumed)

    def none(name: str, of: Callable[[Result], list[str]]) -> Figure:
        count = sum(len(of(result)) for result in results)
        return Figure(name, count, "", goal="0", met=count == 0)

    equal = sum(result.is_equal for result in results)
    every = [
        Figure("kills", len(kills), ""),
        *(Figure(f"kills of the {victim}", count, "") for victim, count in sorted(victims.items())),
        Figure("kills after which the run went on by itself", sum(kill.survived for kill in kills), ""),
        *(Figure(f"gone on with by `{way}`", count, "") for way, count in sorted(ways.items())),
        Figure("runs equal to the undisturbed one / all", equal, "", len(results), "all", equal == len(results)),
        none("steps missing", lambda result: result.missing),
        none("steps trained twice", lambda result: result.repeated),
        none("steps trained on other rollouts", lambda result: result.other_rollouts),
        none("committed files written again", lambda result: result.outcome.rewritten),
        none("orphan processes left", lambda result: result.outcome.orphans),
        none("stuck, crashed or ended with a traceback", lambda result: result.outcome.faults),
    ]
    for mode, undisturbed in references.items():
        every += _costs(mode, [result for result in results if result.mode == mode], undisturbed)
    return every


def _costs(mode: str, results: list[Result], undisturbed: Reference) -> list[Figure]:
    every = [Figure(f"{mode}: the undisturbed run", undisturbed.seconds, "s")]
    kills = sum(len(result.outcome.kills) for result in results)
    if kills:
        lost = sum(result.outcome.seconds - undisturbed.seconds for result in results) / kills
        every.append(Figure(f"{mode}: lost per kill", lost, "s", undisturbed.seconds))
    if first := [seconds for result in results for seconds in result.outcome.first_step_seconds]:
        every.append(Figure(f"{mode}: from resuming to the first new step, median", statistics.median(first), "s"))
        every.append(Figure(f"{mode}: the same, longest", max(first), "s"))
    return every


def _line(number: int, result: Result) -> str:
    struck = ", ".join(f"{kill.victim} ({kill.where})" for kill in result.outcome.kills)
    told = f"run {number}, {result.mode}, {result.outcome.seconds:.0f} s: {struck}"
    wrong = result.faults
    return f"{told}: {'; '.join(wrong)}" if wrong else f"{told}: as undisturbed"


if __name__ == "__main__":
    main()
