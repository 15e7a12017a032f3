"""The policy update: one step's rollouts in, one new policy version out."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from srpo_core.policy import checkpoints
from srpo_core.policy.advantages import group_advantages
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.losses import clipped_loss_sums
from srpo_core.policy.metrics import UpdateTotals, update_metrics
from srpo_core.policy.model import load_model, load_tokenizer, unsampled_token_ids
from srpo_core.policy.packing import PackedRollouts, micro_batches, model_inputs
from srpo_core.policy.scorer import Scorer, attention_cost
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
        self._model = load_model(checkpoint, device=device)
        self._tokenizer = load_tokenizer(checkpoint)
        self._scorer = Scorer(self._model, temperature=temperature, unsampled=unsampled_token_ids(self._tokenizer))
        self._attention_cost = attention_cost(self._model)
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._parameters,
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

    def score(self, batch: RolloutBatch) -> list[npt.NDArray[np.float32]]:
        """The present policy's log-probability of every completion token, one array per rollout, no gradient."""
        scores: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(batch.rewards)
        for rows in self.micro_batches(batch, np.arange(len(batch.rewards))):
            with torch.no_grad():
                logprobs, _ = self._scorer(self._packed(batch, rows))
            for row, values in zip(rows, logprobs.cpu().split(batch.completion_lengths[rows].tolist()), strict=True):
                scores[row] = values.numpy()
        return scores

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
        """Learn from `rows`. A step in which no rollout can add to the gradient is left out."""
        learned = rows[self._adds_to_the_gradient(advantages[rows])]
        if not len(learned):
            return
        loss_tokens = int(batch.completion_lengths[rows].sum())
        self._optimizer.zero_grad()
        for part in self.micro_batches(batch, learned):
            logprobs, entropy = self._scorer(self._packed(batch, part))
            self._loss(batch, part, advantages, logprobs, entropy, loss_tokens, totals).backward()
        self._apply(totals)

    def _adds_to_the_gradient(self, advantages: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which rollouts must go through the model.

        With neither KL term nor entropy bonus, one without an advantage adds exactly nothing to the gradient: it
        counts in the denominator alone.
        """
        needed: npt.NDArray[np.bool_] = advantages != 0.0
        return needed

    def micro_batches(self, batch: RolloutBatch, rows: Rows) -> list[Rows]:
        """The step's `rows` in the parts that go through the model at once."""
        inputs = model_inputs([batch.prompts[row] for row in rows], [batch.completions[row] for row in rows])
        parts = micro_batches(inputs, self._settings.micro_batch_tokens, attention_cost=self._attention_cost)
        return [rows[part] for part in parts]

    def _loss(
        self,
        batch: RolloutBatch,
        rows: Rows,
        advantages: npt.NDArray[np.float64],
        logprobs: Tensor,
        entropy: Tensor,
        loss_tokens: int,
        totals: UpdateTotals,
    ) -> Tensor:
        """The micro-batch's share of the step's loss, counted in `totals`; logprobs and entropy (T,)."""
        device = logprobs.device
        old = np.concatenate([batch.logprobs[row] for row in rows])
        per_token = np.repeat(advantages[rows], batch.completion_lengths[rows]).astype(np.float32)
        sums = clipped_loss_sums(
            logprobs,
            torch.from_numpy(old).to(device),
            torch.from_numpy(per_token).to(device),
            clip_low=self._settings.clip_low,
            clip_high=self._settings.clip_high,
        )
        totals.add(sums, entropy.detach(), loss_tokens=loss_tokens)
        return sums.loss / loss_tokens

    def _apply(self, totals: UpdateTotals) -> None:
        """Clip the gradient, set the learning rate, step. Raises PolicyError when the gradient is not finite."""
        norm = torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.max_grad_norm)
        if not torch.isfinite(norm):
            raise PolicyError(
                f"the gradient of version {self.progress.version + 1} is not finite; nothing was published: "
                "lower update.learning_rate and start another run"
            )
        self._set_learning_rate(self.progress.optimizer_steps + len(totals.gradient_norms))
        self._optimizer.step()
        totals.gradient_norms.append(float(norm))

    def _set_learning_rate(self, optimizer_steps_taken: int) -> None:
        warmup = self._settings.warmup_steps
        share = min(1.0, (optimizer_steps_taken + 1) / warmup) if warmup else 1.0
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * share

    def _packed(self, batch: RolloutBatch, rows: Rows) -> PackedRollouts:
        return self._scorer.pack([batch.prompts[row] for row in rows], [batch.completions[row] for row in rows])
