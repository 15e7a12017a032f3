"""How the next epoch's prompts are chosen."""

from typing import Annotated

from pydantic import Field, field_validator

from srpo_core.settings.section import PositiveInt, Section, Share

SELECTORS = ("greso", "history", "history_readmit", "pass_rate", "pools", "thompson", "uniform", "zero_variance")


class ResamplingSettings(Section):
    """How the next epoch's prompts are chosen from the history; docs/selectors.md tells the rules."""

    selector: str = "history"
    """The rule: `history` (the paper's: prompts that were solved every time are dropped, all others stay),
    `history_readmit`, `uniform`, `zero_variance`, `greso`, `thompson`, `pools`, `pass_rate`, or a file of your own that
    ends in .sql. The settings below belong to the rules that they name."""
    readmit_after: PositiveInt = 3
    """`history_readmit`, `zero_variance`: epochs that a dropped prompt sits out, at most."""
    sure_rollouts: PositiveInt = 32
    """`history_readmit`: graded rollouts, all correct, after which a prompt sits out that long; on fewer, less."""
    explore: Annotated[float, Field(ge=0.05, le=0.95)] = 0.5
    """`greso`: probability, at first, of sampling a prompt again that had no variance once."""
    explore_step: Annotated[float, Field(ge=0, le=0.5)] = 0.05
    """`greso`: what that probability changes by after each epoch, for each side of its own."""
    target_easy: Share = 0.083
    """`greso`: share of all-correct prompts from which the probability of their side falls."""
    target_hard: Share = 0.167
    """`greso`: share of all-wrong prompts from which the probability of their side falls."""
    target_pass_rate: Share = 0.5
    """`thompson`: the pass rate to which the draws should be near."""
    decay: Share = 0.5
    """`thompson`: what a rollout's weight is multiplied by for every epoch that went by since."""
    keep_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """`thompson`: share of all prompts that stay."""
    weight_easy: Share = 0.1
    """`pools`: probability of sampling a prompt whose last visit was all correct."""
    weight_mixed: Share = 1.0
    """`pools`: probability of sampling a prompt whose last visit was correct in part."""
    weight_hard: Share = 0.5
    """`pools`: probability of sampling a prompt whose last visit was all wrong."""
    solved_pass_rate: Annotated[float, Field(gt=0, le=1)] = 0.875
    """`pass_rate`: pass rate in one visit from which on a prompt is dropped for ever."""

    @field_validator("selector")
    @classmethod
    def _known(cls, selector: str) -> str:
        if selector not in SELECTORS and not selector.endswith(".sql"):
            raise ValueError(f"must be one of {', '.join(SELECTORS)}, or a file that ends in .sql")
        return selector
