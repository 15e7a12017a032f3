"""The policy update: one step's rollouts in, one new policy version out."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from srpo_core.policy import checkpoints, lora
from srpo_core.policy.advantages import advantages_of
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import NotFiniteError, PolicyError
from srpo_core.policy.lesson import Lesson, Scores, refuse_not_finite
from srpo_core.policy.losses.mean import token_weights
from srpo_core.policy.losses.objective import objective
from srpo_core.policy.losses.sampling import correction
from srpo_core.policy.memory import is_out_of_memory
from srpo_core.policy.metrics import UpdateTotals, update_metrics
from srpo_core.policy.model import end_token_ids, load_model, load_tokenizer, unsampled_token_ids
from srpo_core.policy.packing import PackedRollouts, micro_batches, model_inputs, prefix_forest
from srpo_core.policy.ranks.processes import ALONE, Ranks, share_of
from srpo_core.policy.ranks.sharding import mine, shard, whole
from srpo_core.policy.recompute import recompute_layers
from srpo_core.policy.schedules import learning_rate_share
from srpo_core.policy.scorer import Scorer, attention_cost
from srpo_core.seeds import generator
from srpo_core.settings.update import UpdateSettings

Rows = npt.NDArray[np.int64]
T = TypeVar("T")


class Trainer:
    """Holds the policy, its optimizer and how far it has come. Weights and moments are float32."""

    def __init__(
        self,
        checkpoint: Path,
        settings: UpdateSettings,
        *,
        temperature: float,
        longest: int | None = None,
        same_code: bool = True,
        reference: Path | None = None,
        device: str = "cpu",
        base: Path | None = None,
        adapter_seed: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        """Start from `checkpoint`: a published version, or a bare model, which begins as version 0.

        `temperature` and `longest`, in tokens, are those of the sampling; `same_code` tells that the engine computes
        as the trainer does. `reference` is loaded only where the settings give the divergence a weight. With LoRA
        `base` is the directory of the weights that stand still, and `adapter_seed` draws the adapter of a bare model.
        Of several `ranks` each makes a trainer of its own, and calls each method when the others do. Raises
        PolicyError when a policy cannot be loaded, ValueError when the settings need what is not given.
        """
        if (settings.loss_mean == "constant" and longest is None) or (settings.kl.coefficient and reference is None):
            raise ValueError("loss_mean constant needs the longest completion, kl.coefficient a reference policy")
        self._settings = settings
        self._longest = longest or 1
        self._correction = correction(settings, same_code=same_code)
        self._token_budget = settings.micro_batch_tokens
        self.operations = 0.0
        """Floating point operations of the last update: the model's, forward and backward."""
        self.skipped_operations = 0.0
        """What the graded rollouts that were left out would have cost, in the same measure."""
        self._ranks = ranks
        home = device if ranks.size == 1 else "cpu"  # from where each process takes its share
        self._model = self._open(checkpoint, base, adapter_seed, device=home)
        self._tokenizer = load_tokenizer(checkpoint)
        unsampled = unsampled_token_ids(self._tokenizer, end_token_ids(checkpoint, self._tokenizer))
        self._attention_cost = attention_cost(self._model)
        autocast = torch.bfloat16 if settings.precision == "bfloat16" else None
        scorer_of = partial(Scorer, temperature=temperature, unsampled=unsampled, autocast=autocast)
        self._scorer = scorer_of(self._model)
        self._reference: Scorer | None = None
        if settings.kl.coefficient and reference is not None:
            self._reference = scorer_of(load_model(reference, device=home).requires_grad_(False))
        if ranks.size > 1:
            for scorer in (self._scorer, *([self._reference] if self._reference else ())):
                shard(scorer, scorer.model, device=device, compute=autocast or torch.float32)
        self._parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        self._optimizer = _optimizer(self._parameters, settings)
        self.progress = self._go_on(checkpoint)

    def _go_on(self, checkpoint: Path) -> checkpoints.Progress:
        """How far `checkpoint` is, whose optimizer state is taken over; a bare model begins as version 0."""
        if not (checkpoint / checkpoints.PROGRESS_FILE).exists() and not checkpoints.has_optimizer(checkpoint):
            return checkpoints.Progress(version=0, optimizer_steps=0)
        progress = checkpoints.load_progress(checkpoint)
        checkpoints.load_optimizer(checkpoint, self._model, self._optimizer, ranks=self._ranks)
        return progress

    def weights(self) -> Mapping[str, Tensor] | None:
        """The present weights by name, not copied: they change with the next update.

        None where they are whole on disk alone: merged with an adapter, or spread over several processes.
        """
        if self._settings.lora.rank is not None or self._ranks.size > 1:
            return None
        weights: Mapping[str, Tensor] = self._model.state_dict()
        return weights

    def save(self, directory: Path) -> None:
        """Write the present version into `directory`, which the caller publishes."""
        checkpoints.save(
            directory,
            self._model,
            self._tokenizer,
            self._optimizer,
            self.progress,
            adapter=self._settings.lora if self._settings.lora.rank else None,
            ranks=self._ranks,
        )

    def update(self, batch: RolloutBatch, *, seed: int) -> dict[str, float]:
        """Make the next version from one step's rollouts; gives the metrics of the step, named as TRL's.

        `seed` orders the groups when several optimizer steps share them. A batch in which no rollout has an
        advantage still makes a version, equal to the last. Raises NotFiniteError when the loss, the gradient or the
        weights would not be finite, and PolicyError when memory runs out; nothing on disk changes, but of several
        optimizer steps the first may be in memory: begin again from the checkpoint then.
        """
        self.operations = 0.0
        refuse_not_finite(batch)
        lesson = self._lesson(batch)
        self.skipped_operations = self._skipped_operations(
            batch, np.flatnonzero(~np.isnan(batch.rewards) & ~lesson.learned)
        )
        totals = UpdateTotals()
        for rows in self._optimizer_step_rows(batch, seed):
            totals = self._optimizer_step(lesson, rows, totals)
        self._refuse_weights_not_finite(lesson)
        steps = len(totals.gradient_norms)
        self.progress = checkpoints.Progress(
            version=self.progress.version + 1,
            optimizer_steps=self.progress.optimizer_steps + steps,
            left_out=0 if steps else self.progress.left_out,
        )
        totals.add_up(self._ranks)
        (self.operations,) = self._ranks.sums([self.operations])
        return update_metrics(batch, lesson.learned, totals)

    def leave_out(self, batch: RolloutBatch) -> dict[str, float]:
        """Make a version that is equal to the last, since the batch's own was not finite; gives its metrics."""
        self.progress = replace(self.progress, version=self.progress.version + 1, left_out=self.progress.left_out + 1)
        return update_metrics(batch, np.zeros(len(batch.rewards), dtype=np.bool_), UpdateTotals())

    def score(self, batch: RolloutBatch, rows: Rows | None = None) -> list[npt.NDArray[np.float32]]:
        """The present policy's log-probability of every completion token, one array per rollout, no gradient.

        With `rows`, of those alone; the other arrays are empty.
        """
        return self._score(self._scorer, batch, np.arange(len(batch.rewards)) if rows is None else rows)

    def _score(self, scorer: Scorer, batch: RolloutBatch, rows: Rows) -> list[npt.NDArray[np.float32]]:
        scores: list[npt.NDArray[np.float32]] = [np.empty(0, dtype=np.float32)] * len(batch.rewards)
        for part in self.micro_batches(batch, rows):
            with torch.no_grad():
                logprobs, _ = scorer(self._packed(batch, part))
            for row, values in zip(part, logprobs.cpu().split(batch.completion_lengths[part].tolist()), strict=True):
                scores[row] = values.numpy()
        return scores

    def _lesson(self, batch: RolloutBatch) -> Lesson:
        """What the batch's rollouts are worth, and what the policy before the update and the reference say of them."""
        truncated = batch.truncated if self._settings.mask_truncated else None
        advantages = advantages_of(self._settings.advantage, batch.rewards, batch.groups, truncated)
        learned = ~np.isnan(batch.rewards) & self._adds_to_the_gradient(advantages)
        rows = np.flatnonzero(learned)
        old: Scores | None = batch.logprobs
        if self._correction.recomputes:  # a single step has the policy before the update in its own forward pass
            several = self._settings.optimizer_steps > 1
            old = self._within_memory(lambda: self.score(batch, rows)) if several else None
        reference: Scores | None = None
        if (scorer := self._reference) is not None:
            reference = self._within_memory(lambda: self._score(scorer, batch, rows))
        return Lesson(batch, advantages, learned, old, reference)

    def _optimizer_step_rows(self, batch: RolloutBatch, seed: int) -> Iterator[Rows]:
        """The graded rollouts of each optimizer step, whole groups together."""
        graded = ~np.isnan(batch.rewards)
        groups = np.unique(batch.groups[graded])
        random = generator(seed)
        for _ in range(self._settings.passes):
            for share in np.array_split(random.permutation(groups), self._settings.minibatches):
                yield np.flatnonzero(graded & np.isin(batch.groups, share))

    def _optimizer_step(self, lesson: Lesson, rows: Rows, totals: UpdateTotals) -> UpdateTotals:
        """Learn from `rows`; gives the totals with them. A step in which nothing adds to the gradient is left out."""
        learned = rows[lesson.learned[rows]]
        if not len(learned):
            return totals
        lengths = lesson.batch.completion_lengths
        weights = np.zeros(len(lengths))
        weights[rows] = token_weights(self._settings.loss_mean, lengths[rows], longest=self._longest)
        totals = self._within_memory(lambda: self._backward(lesson, learned, weights, copy.deepcopy(totals)))
        self._apply(learned, totals)
        return totals

    def _adds_to_the_gradient(self, advantages: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        """Which rollouts must go through the model.

        With neither KL term nor entropy bonus, one without an advantage adds exactly nothing to the gradient: it
        counts in the denominator alone.
        """
        everything = bool(self._settings.kl.coefficient or self._settings.entropy_coefficient)
        needed: npt.NDArray[np.bool_] = (advantages != 0.0) | everything
        return needed

    def micro_batches(self, batch: RolloutBatch, rows: Rows) -> list[Rows]:
        """The step's `rows` in the parts that go through the model at once."""
        inputs = model_inputs([batch.prompts[row] for row in rows], [batch.completions[row] for row in rows])
        parts = micro_batches(
            inputs, self._token_budget, attention_cost=self._attention_cost, multiple_of=self._ranks.size
        )
        return [rows[part] for part in parts]

    def _backward(
        self, lesson: Lesson, rows: Rows, weights: npt.NDArray[np.float64], totals: UpdateTotals
    ) -> UpdateTotals:
        """The gradient of `rows`, counted in `totals`. Raises NotFiniteError for a loss that is not finite.

        Of several processes one must not stop alone: there the gradient, which they have together, tells it.
        """
        self._optimizer.zero_grad()
        parts, empty = share_of(self.micro_batches(lesson.batch, rows), self._ranks)
        for part in parts:
            packed = self._packed(lesson.batch, part)
            logprobs, entropy = self._scorer(packed)
            self.operations += self._operations(len(packed.tokens), lesson.batch.lengths[part])
            tokens = lesson.tokens(part, weights, logprobs, entropy)
            loss, report = objective(tokens, self._settings, self._correction.importance_sampling)
            totals.add(report)
            if self._ranks.size == 1 and not math.isfinite(totals.sums["loss"]):
                raise _not_finite_loss(report.losses.split(tokens.lengths.tolist()), part)
            loss.backward()
        for _ in range(empty):
            logprobs, _ = self._scorer(self._packed(lesson.batch, rows[[lesson.batch.lengths[rows].argmin()]]))
            (logprobs.sum() * 0.0).backward()
        return totals

    def _operations(self, tokens: int, lengths: Rows) -> float:
        """2 operations a parameter and token forward, and twice as many backward; attention beside them."""
        parameters = sum(parameter.numel() for parameter in self._model.parameters())
        return 6 * parameters * (tokens + self._attention_cost * float(np.square(lengths).sum()))

    def _skipped_operations(self, batch: RolloutBatch, rows: Rows) -> float:
        """What `rows`, packed like the others, would have cost in all passes."""
        inputs = model_inputs([batch.prompts[row] for row in rows], [batch.completions[row] for row in rows])
        return self._settings.passes * self._operations(prefix_forest(inputs)[1], batch.lengths[rows])

    def _within_memory(self, work: Callable[[], T]) -> T:
        """The result of `work`, done once more with half the token budget when memory runs out.

        The budget stays halved from then on. Raises PolicyError when half of it is too much as well, and for one of
        several processes at once: the others are in the middle of the work.
        """
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if self._ranks.size > 1 or self._token_budget < self._settings.micro_batch_tokens:
                raise self._out_of_memory() from error
        # Outside of the handler, for its traceback holds what did not fit.
        self._token_budget = max(1, self._token_budget // 2)
        self._optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return work()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory() from error

    def _out_of_memory(self) -> PolicyError:
        budget = self._settings.micro_batch_tokens
        again = f", and again with {self._token_budget}" if self._token_budget < budget else ""
        return PolicyError(
            f"memory ran out with micro-batches of {budget} tokens{again}: start a run "
            f"with update.micro_batch_tokens below {self._token_budget}, a shorter rollout.max_new_tokens or a smaller "
            "model"
        )

    def _apply(self, rows: Rows, totals: UpdateTotals) -> None:
        """Clip the gradient, set the learning rate, step. Raises NotFiniteError for a gradient that is not finite."""
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(whole(norm)):
            bad = self._not_finite({n: p.grad for n, p in self._model.named_parameters() if p.grad is not None})
            raise NotFiniteError(
                {f"gradient of {name}": n for name, n in bad.items()} or {"gradient's norm": 1}, rows.tolist()
            )
        torch.nn.utils.clip_grads_with_norm_(self._parameters, self._settings.max_grad_norm, norm)
        self._set_learning_rate(self.progress.optimizer_steps + len(totals.gradient_norms))
        try:
            self._optimizer.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise PolicyError(
                "memory ran out in the optimizer's step: its two moments take twice the memory of the model's weights"
            ) from error
        totals.gradient_norms.append(float(whole(norm)))

    def _refuse_weights_not_finite(self, lesson: Lesson) -> None:
        bad = self._not_finite(dict(self._model.named_parameters()))
        if bad:
            raise NotFiniteError(bad, np.flatnonzero(lesson.learned).tolist())

    def _not_finite(self, tensors: dict[str, Tensor]) -> dict[str, int]:
        """How many numbers are not finite in each tensor that has any."""
        finite = torch.stack([torch.isfinite(mine(tensor.detach())).all() for tensor in tensors.values()]).tolist()
        counts = [
            0 if fine else int((~torch.isfinite(mine(tensor.detach()))).sum())
            for tensor, fine in zip(tensors.values(), finite, strict=True)
        ]
        everywhere = self._ranks.sums([float(count) for count in counts])
        return {name: int(count) for name, count in zip(tensors, everywhere, strict=True) if count}

    def _set_learning_rate(self, optimizer_steps_taken: int) -> None:
        share = learning_rate_share(
            optimizer_steps_taken,
            warmup_steps=self._settings.warmup_steps,
            decay_steps=self._settings.decay_steps,
            final_share=self._settings.final_learning_rate_share,
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._settings.learning_rate * share

    def _open(self, checkpoint: Path, base: Path | None, adapter_seed: int, *, device: str) -> PreTrainedModel:
        settings = self._settings
        if settings.lora.rank is None:
            model = load_model(checkpoint, device=device)
        else:
            model = lora.load_model_with_adapter(checkpoint, base, settings.lora, seed=adapter_seed, device=device)
        if settings.gradient_checkpointing:
            recompute_layers(model)
        return model

    def _packed(self, batch: RolloutBatch, rows: Rows) -> PackedRollouts:
        return self._scorer.pack([batch.prompts[row] for row in rows], [batch.completions[row] for row in rows])


def _optimizer(parameters: list[torch.nn.Parameter], settings: UpdateSettings) -> torch.optim.AdamW:
    betas = settings.beta1, settings.beta2
    return torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay, fused=True
    )


def _not_finite_loss(losses: Sequence[Tensor], rows: Rows) -> NotFiniteError:
    """Which rollouts' losses are not finite; `losses` has the tokens' losses of each of `rows`."""
    bad = [int((~torch.isfinite(values)).sum()) for values in losses]
    places = [row for row, count in zip(rows.tolist(), bad, strict=True) if count]
    return NotFiniteError({"loss": sum(bad)}, places or rows.tolist())
