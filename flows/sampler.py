"""The engine of a run with one of its policies loaded: what rollouts and evaluations sample and grade with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from flows.engines import open_engine
from flows.handover import Weights
from flows.metrics import Stopwatch
from flows.rows import GradedRollout
from srpo_core.config import Settings
from srpo_core.problems.problem import Problem
from srpo_core.rewards.grade import Answered, Grader
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import Sampling, Tell, unheard
from srpo_core.rollout.errors import EngineError
from srpo_core.rollout.rollouts import sample_rollouts
from srpo_core.rollout.transformers import TransformersEngine


class Sampler:
    """Samples problems from one policy at a time and grades what comes back."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """`directory` is where the engine keeps its log and what its servers load, if it has any."""
        torch.set_num_threads(settings.policy.threads)
        self._settings = settings
        self._engine = open_engine(settings, directory)
        self._verifiers = Verifiers(settings.verifiers, check_thought=settings.rewards.check_thought)
        self._grader = Grader(settings.rewards, self._verifiers, max_new_tokens=settings.rollout.max_new_tokens)

    def load(self, checkpoint: Path) -> None:
        """Sample from the policy in `checkpoint` from now on. Raises PolicyError when it cannot be loaded."""
        self._engine.load(checkpoint)

    @property
    def takes_weights(self) -> bool:
        """Whether the engine can `take` weights from memory: one in this process that has loaded a version before."""
        return self._engine.takes_weights

    def take(self, checkpoint: Path, weights: Weights) -> bool:
        """Sample from these weights, copied from memory, which are or will be those in `checkpoint`.

        False when the engine cannot: then `load` it.
        """
        return self._engine.take(checkpoint, weights)

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuse problems that cannot be judged here. Raises UnsupportedProblemError, SandboxUnavailable."""
        self._verifiers.check(problems)

    def sample(
        self,
        problems: Sequence[Problem],
        samples: int,
        seed_of: Callable[[Problem, int], int],
        stopwatch: Stopwatch,
        *,
        kind: str,
        tell: Tell = unheard,
    ) -> list[GradedRollout]:
        """`samples` graded rollouts of each problem; their time counts as `kind` and `grade`.

        `tell` hears how many are sampled.
        """
        rollout = self._settings.rollout
        if self._engine.tokenizer is None:
            raise RuntimeError("load a policy before sampling")
        with stopwatch.measure(kind), self._forgotten_when_lost():
            rollouts = sample_rollouts(
                self._engine.sampling,
                self._engine.tokenizer,
                problems,
                samples=samples,
                seed_of=seed_of,
                sampling=Sampling(rollout.temperature, rollout.max_new_tokens),
                template=self._settings.problems.template,
                tell=tell,
            )
        with stopwatch.measure("grade"):
            answered = [Answered(r.problem, r.text, len(r.completion.token_ids), r.truncated) for r in rollouts]
            return list(zip(rollouts, self._grader.grade(answered), strict=True))

    def proof(self) -> dict[str, float]:
        """How well the servers' answers to the probe agreed with the trainer's, as metrics; nothing without servers."""
        engine = self._engine.sampling
        if isinstance(engine, TransformersEngine):
            return {}
        return {"engine/probe_logp_difference": engine.probe_difference}

    def rest(self) -> None:
        """Give the servers' memory back until the next policy is loaded, where the settings say so."""
        engine = self._engine.sampling
        if self._settings.engine.sleep and not isinstance(engine, TransformersEngine):
            self._engine.loaded = None
            engine.sleep()

    @contextmanager
    def _forgotten_when_lost(self) -> Iterator[None]:
        """After a failure nothing is known of what the engine has loaded: the next attempt loads it anew."""
        try:
            yield
        except EngineError:
            self._engine.loaded = None
            raise

    def close(self) -> None:
        """End the verifiers' processes; a vLLM server stays for the next flow."""
        self._verifiers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
