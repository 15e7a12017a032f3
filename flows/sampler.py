"""The engine of a run with one of its policies loaded: what rollouts and evaluations sample and grade with."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from flows.metrics import Stopwatch
from flows.rows import GradedRollout
from srpo_core.config import Settings
from srpo_core.policy.model import load_tokenizer
from srpo_core.problems.problem import Problem
from srpo_core.rewards.grade import Answered, Grader
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import RolloutEngine, Sampling
from srpo_core.rollout.rollouts import sample_rollouts
from srpo_core.rollout.transformers import TransformersEngine


class Sampler:
    """Samples problems from one policy at a time and grades what comes back."""

    def __init__(self, settings: Settings) -> None:
        torch.set_num_threads(settings.policy.threads)
        self._settings = settings
        self._engine: RolloutEngine = TransformersEngine(
            batch_rows=settings.rollout.batch_rows, dtype=settings.policy.dtype, device=settings.policy.device
        )
        self._loaded: Path | None = None
        self._verifiers = Verifiers(settings.verifiers, check_thought=settings.rewards.check_thought)
        self._grader = Grader(settings.rewards, self._verifiers, max_new_tokens=settings.rollout.max_new_tokens)

    def load(self, checkpoint: Path) -> None:
        """Sample from the policy in `checkpoint` from now on. Raises PolicyError when it cannot be loaded."""
        if checkpoint != self._loaded:
            if self._loaded is None:  # a run has one tokenizer, whatever the version
                self._tokenizer = load_tokenizer(checkpoint)
            self._engine.load(checkpoint)
            self._loaded = checkpoint

    def sample(
        self,
        problems: Sequence[Problem],
        samples: int,
        seed_of: Callable[[Problem, int], int],
        stopwatch: Stopwatch,
        *,
        kind: str,
    ) -> list[GradedRollout]:
        """`samples` graded rollouts of each problem; their time counts as `kind` and `grade`."""
        rollout = self._settings.rollout
        with stopwatch.measure(kind):
            rollouts = sample_rollouts(
                self._engine,
                self._tokenizer,
                problems,
                samples=samples,
                seed_of=seed_of,
                sampling=Sampling(rollout.temperature, rollout.max_new_tokens),
                template=self._settings.problems.template,
            )
        with stopwatch.measure("grade"):
            answered = [Answered(r.problem, r.text, len(r.completion.token_ids), r.truncated) for r in rollouts]
            return list(zip(rollouts, self._grader.grade(answered), strict=True))

    def close(self) -> None:
        """End the verifiers' processes."""
        self._verifiers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
