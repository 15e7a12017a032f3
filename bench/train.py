"""Useful tokens a second learned by our update, beside a plain one: all rows padded to the longest, all logits kept.

Both learn from the same rollouts of the lab's base, with the same loss and optimizer, on one thread. Completion
tokens count, whether a way computes them or may leave them out.
"""

import numpy as np
import torch

from bench.figures import Figure, options, tell, timed_in_turn
from bench.lab_batch import lab_engine, lab_step, sample, training_batch
from srpo_core.policy.advantages import advantages_of
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.model import load_model
from srpo_core.policy.trainer import Trainer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.settings.update import UpdateSettings

GOAL = 2.0


class PlainUpdate:
    """The update as one writes it first."""

    def __init__(self, settings: UpdateSettings) -> None:
        """Load the lab's base."""
        self.model = load_model(base_policy_dir())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=0.0, fused=True
        )
        self.settings = settings

    def update(self, batch: RolloutBatch) -> None:
        """One optimizer step."""
        width = int(batch.lengths.max())
        tokens = np.zeros((len(batch.rewards), width), dtype=np.int64)
        mask = np.zeros_like(tokens)
        scored = np.zeros((len(tokens), width - 1), dtype=np.float32)
        old = np.zeros_like(scored)
        for row, (prompt, completion) in enumerate(zip(batch.prompts, batch.completions, strict=True)):
            end = len(prompt) + len(completion)
            tokens[row, :end], mask[row, :end] = np.concatenate([prompt, completion]), 1
            scored[row, len(prompt) - 1 : end - 1] = 1
            old[row, len(prompt) - 1 : end - 1] = batch.logprobs[row]
        ids = torch.from_numpy(tokens)
        logits = self.model(input_ids=ids, attention_mask=torch.from_numpy(mask), use_cache=False).logits[:, :-1]
        logprobs = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        weights = torch.from_numpy(advantages_of("group_std", batch.rewards, batch.groups)).float()[:, None]
        ratio = (logprobs - torch.from_numpy(old)).exp()
        clipped = ratio.clamp(1 - self.settings.clip_low, 1 + self.settings.clip_high)
        objective = torch.minimum(ratio * weights, clipped * weights) * torch.from_numpy(scored)
        self.optimizer.zero_grad()
        (-objective.sum() / float(scored.sum())).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm)
        self.optimizer.step()


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    batch = training_batch(sample(lab_engine(), lab_step()))
    settings = UpdateSettings(learning_rate=1e-9)  # so that every repetition learns from the same policy
    trainer, plain = Trainer(base_policy_dir(), settings, temperature=1.0), PlainUpdate(settings)
    seconds = timed_in_turn(
        5 if asked.quick else 25, lambda: trainer.update(batch, seed=0), lambda: plain.update(batch)
    )
    tokens = float(batch.completion_lengths.sum())
    rates = tokens / seconds[0], tokens / seconds[1]
    advantages = advantages_of("group_std", batch.rewards, batch.groups)
    skipped = float(batch.completion_lengths[advantages == 0].sum()) / tokens
    goal = f">= {GOAL:g} x plain"
    figures = [
        Figure("useful tokens trained", rates[0], "tokens/s", rates[1], goal, rates[0] >= GOAL * rates[1]),
        Figure("share of tokens without advantage", skipped, "of tokens"),
    ]
    tell(figures, asked)


if __name__ == "__main__":
    main()
