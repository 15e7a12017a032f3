"""The policy update: one step's rollouts in, one new policy version out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from srpo_core.policy import checkpoints
from srpo_core.policy.advantages import group_advantages
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.logprobs import completion_statistics
from srpo_core.policy.losses import clipped_loss_sums
from srpo_core.policy.metrics import UpdateTotals, update_metrics
from srpo_core.policy.model import load_model, load_tokenizer, unsampled_token_ids
from srpo_core.policy.packing import length_buckets
from srpo_core.seeds import generator
from srpo_core.settings.update import UpdateSettings

Rows = npt.NDArray[np.int64]


class Trainer:
    """Holds the policy, its optimizer and how far it has come. Works in float32."""

    def __init__(self, checkpoint: Path, settings: UpdateSettings, *, temperature: float, device: str = "cpu") -> None:
        """Start from `checkpoint`: a published version, or a bare model, which begins as version 0.

        Raises PolicyError when it cannot be loaded.
        """
        self._settings = settings
        self._temperature = temperature
        self._model = load_model(checkpoint, device=device)
        self._tokenizer = load_tokenizer(checkpoint)
        self._unsampled = torch.tensor(unsampled_token_ids(self._tokenizer), dtype=torch.long, device=device)
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.progress = checkpoints.Progress(version=0, optimizer_steps=0)
        if any((checkpoint / name).exists() for name in (checkpoints.PROGRESS_FILE, checkpoints.OPTIMIZER_FILE)):
            self.progress = checkpoints.load_progress(checkpoint)
            checkpoints.load_optimizer(checkpoint, self._model, self._optimizer)

    def save(self, directory: Path) -> None:
        """Write the present version into `directory`, which the caller publishes."""
        checkpoints.save(directory, self._model, self._tokenizer, self._optimizer, self.progress)

    def update(self, batch: RolloutBatch, *, seed: int) -> dict[str, float]:
        """Make the next version from one step's rollouts; gives the metrics of the step, named as TRL's.

        `seed` orders the groups when several optimizer steps share them. A batch in which no rollout has an
        advantage still makes a version, equal to the last. Raises PolicyError, and changes nothing that is on
        disk, when the gradient is not finite.
        """
        advantages = group_advantages(batch.rewards, batch.groups, scale_by_std=self._settings.scale_by_std)
        if self._settings.mask_truncated:
            advantages = np.where(batch.truncated, 0.0, advantages)
        totals = UpdateTotals()
        for rows in self._optimizer_step_rows(batch, seed):
            self._optimizer_step(batch, advantages, rows, totals)
        self.progress = checkpoints.Progress(
            version=self.progress.version + 1,
            optimizer_steps=self.progress.optimizer_steps + len(totals.gradient_norms),
        )
        return update_metrics(batch, advantages, totals)

    def _optimizer_step_rows(self, batch: RolloutBatch, seed: int) -> Iterator[Rows]:
        """The graded rollouts of each optimizer step, whole groups together."""
        graded = ~np.isnan(batch.rewards)
        groups = np.unique(batch.groups[graded])
        random = generator(seed)
        for _ in range(self._settings.passes):
            for share in np.array_split(random.permutation(groups), self._settings.minibatches):
                yield np.flatnonzero(graded & np.isin(batch.groups, share))

    def _optimizer_step(
        self, batch: RolloutBatch, advantages: npt.NDArray[np.float64], rows: Rows, totals: UpdateTotals
    ) -> None:
        """Learn from `rows`. A step in which no rollout has an advantage is left out.

        With a token-level loss and neither KL term nor entropy bonus, rollouts without an advantage add exactly
        nothing to the gradient: they are skipped, and count in the denominator alone.
        """
        informative = rows[advantages[rows] != 0.0]
        if not len(informative):
            return
        loss_tokens = int(batch.completion_lengths[rows].sum())
        self._optimizer.zero_grad()
        for bucket in length_buckets(batch.lengths[informative], self._settings.micro_batch_tokens):
            self._backward(batch, advantages, informative[bucket], loss_tokens, totals)
        norm = torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyError(
                f"the gradient of version {self.progress.version + 1} is not finite; nothing was published: "
                "lower update.learning_rate and start another run"
            )
        self._set_learning_rate(self.progress.optimizer_steps + len(totals.gradient_norms))
        self._optimizer.step()
        totals.gradient_norms.append(float(norm))

    def _backward(
        self,
        batch: RolloutBatch,
        advantages: npt.NDArray[np.float64],
        rows: Rows,
        loss_tokens: int,
        totals: UpdateTotals,
    ) -> None:
        device = self._model.device
        completions = [batch.completions[row] for row in rows]
        statistics = completion_statistics(
            self._model,
            [batch.prompts[row] for row in rows],
            completions,
            temperature=self._temperature,
            unsampled=self._unsampled,
        )
        old_logprobs = np.concatenate([batch.logprobs[row] for row in rows])
        token_advantages = np.repeat(advantages[rows], [len(c) for c in completions]).astype(np.float32)
        sums = clipped_loss_sums(
            statistics.logprobs,
            torch.from_numpy(old_logprobs).to(device),
            torch.from_numpy(token_advantages).to(device),
            clip_low=self._settings.clip_low,
            clip_high=self._settings.clip_high,
        )
        (sums.loss / loss_tokens).backward()
        totals.add(sums, statistics.entropy, loss_tokens=loss_tokens)

    def _set_learning_rate(self, optimizer_steps_taken: int) -> None:
        warmup = self._settings.warmup_steps
        share = min(1.0, (optimizer_steps_taken + 1) / warmup) if warmup else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * share
