"""From problems to rollouts: prompts rendered, completions sampled, texts read back for grading."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srpo_core.problems.problem import Problem
from srpo_core.problems.templates import Template, render
from srpo_core.rollout.engine import Completion, PromptGroup, RolloutEngine, Sampling, Tell, unheard

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem, and what it takes to sample it again."""

    problem: Problem
    sample: int
    seed: int
    prompt: str
    prompt_token_ids: Sequence[int]
    completion: Completion
    text: str

    @property
    def truncated(self) -> bool:
        """Whether the completion was cut at the longest length."""
        return self.completion.finish_reason == "length"


def sample_rollouts(
    engine: RolloutEngine,
    tokenizer: "PreTrainedTokenizerBase",
    problems: Sequence[Problem],
    *,
    samples: int,
    seed_of: Callable[[Problem, int], int],
    sampling: Sampling,
    template: Template,
    tell: Tell = unheard,
) -> list[Rollout]:
    """`samples` rollouts of each problem, problem by problem; `seed_of(problem, sample)` seeds each.

    `tell` hears how many completions are finished.
    """
    groups = [
        PromptGroup(render(problem, template, tokenizer), [seed_of(problem, i) for i in range(samples)])
        for problem in problems
    ]
    rollouts = []
    for problem, group, completions in zip(problems, groups, engine.generate(groups, sampling, tell), strict=True):
        prompt = tokenizer.decode(list(group.prompt_token_ids))
        for sample, (seed, completion) in enumerate(zip(group.seeds, completions, strict=True)):
            text = completion_text(tokenizer, completion)
            rollouts.append(Rollout(problem, sample, seed, str(prompt), group.prompt_token_ids, completion, text))
    return rollouts


def completion_text(tokenizer: "PreTrainedTokenizerBase", completion: Completion) -> str:
    """What was written, without the token that ended it; other special tokens stay, since tags may be such."""
    ids = completion.token_ids[:-1] if completion.finish_reason == "stop" else completion.token_ids
    return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))
