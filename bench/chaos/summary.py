"""What campaigns have seen so far: what was done, what must be zero, and what a kill costs."""

import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from bench.chaos.campaign import Campaign, Result
from bench.figures import Figure


def kills_done(campaigns: Sequence[Campaign]) -> int:
    """Kills of runs that ended."""
    return sum(len(result.outcome.kills) for campaign in campaigns for result in campaign.results)


def kills_held(campaigns: Sequence[Campaign]) -> int:
    """Kills of runs with which all is well."""
    results = [result for campaign in campaigns for result in campaign.results]
    return sum(len(result.outcome.kills) for result in results if not result.faults)


def figures(campaigns: Sequence[Campaign]) -> list[Figure]:
    """Everything that is told."""
    results = [result for campaign in campaigns for result in campaign.results]
    done, held = kills_done(campaigns), kills_held(campaigns)
    survived = sum(kill.survived for result in results for kill in result.outcome.kills)
    ways = Counter(way for result in results for way in result.outcome.resumed)

    def none(name: str, of: Callable[[Result], list[str]]) -> Figure:
        count = sum(len(of(result)) for result in results)
        return Figure(name, count, "", goal="0", met=count == 0)

    every = [
        Figure("kills that held / all", held, "", done, "all", held == done),
        Figure("kills after which the run went on by itself", survived, ""),
        *(Figure(f"gone on with by `{way}`", count, "") for way, count in sorted(ways.items())),
        none("tables and policy files unlike the undisturbed run's", lambda result: result.differences),
        none("steps missing", lambda result: result.missing),
        none("steps trained twice", lambda result: result.repeated),
        none("steps trained on other rollouts", lambda result: result.other_rollouts),
        none("files written before what they follow from", lambda result: result.too_early),
        none("committed files written again", lambda result: result.outcome.rewritten),
        none("orphan processes left", lambda result: result.outcome.orphans),
        none("stuck, crashed or ended with a traceback", lambda result: result.outcome.faults),
    ]
    return every + [figure for campaign in campaigns for figure in _of_mode(campaign)]


def _of_mode(campaign: Campaign) -> list[Figure]:
    mode, results, undisturbed = campaign.mode, campaign.results, campaign.undisturbed
    if undisturbed is None or not results:
        return []
    kills = [kill for result in results for kill in result.outcome.kills]
    victims = Counter(kill.victim for kill in kills)
    seconds = sum(result.outcome.seconds for result in results)
    every = [
        Figure(f"{mode}: runs", len(results), ""),
        *(Figure(f"{mode}: kills of the {victim}", count, "") for victim, count in sorted(victims.items())),
        Figure(f"{mode}: the undisturbed run", undisturbed.seconds, "s"),
        Figure(f"{mode}: all of the killed runs", seconds / 60, "min"),
    ]
    if kills:
        lost = (seconds - undisturbed.seconds * len(results)) / len(kills)
        every.append(Figure(f"{mode}: lost per kill", lost, "s", undisturbed.seconds))
    if first := [each for result in results for each in result.outcome.first_step_seconds]:
        every.append(Figure(f"{mode}: from resuming to the first new step, median", statistics.median(first), "s"))
        every.append(Figure(f"{mode}: the same, longest", max(first), "s"))
    return every
