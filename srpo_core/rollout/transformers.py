"""The in-process engine: any causal model that transformers loads, sampled in groups on one KV cache.

`generate` of transformers computes every sample of a prompt apart and every row of a padded batch until the longest
has ended. Here completions of a prompt that have the same tokens so far are one row, a *branch*: it splits where their
tokens differ and leaves when they have ended. The samples of a sure policy have most of their tokens in common, and a
prompt is the beginning that all of them share. Not covered: sliding-window and recurrent layers, whose state is not a
plain sequence of keys and values.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from srpo_core.policy.model import (
    end_token_ids,
    load_model,
    load_tokenizer,
    load_weights,
    put_weights,
    read_config,
    sampling_logits,
    unsampled_token_ids,
)
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling, Tell, unheard
from srpo_core.rollout.kv_cache import GroupCache
from srpo_core.seeds import generator

UNIFORMS_AT_ONCE = 128


class TransformersEngine:
    """Samples with a transformers model in this process, at most `batch_rows` completions at a time."""

    def __init__(self, *, batch_rows: int, dtype: str = "float32", device: str = "cpu") -> None:
        self._batch_rows = batch_rows
        self._dtype = dtype
        self._device = device
        self._model: PreTrainedModel | None = None
        self._config = b""

    def load(self, checkpoint: Path) -> None:
        """Serve the policy stored in `checkpoint`. Raises PolicyError when it cannot be loaded.

        A further version of the same model takes the place of the weights alone, which is several times faster.
        """
        config = read_config(checkpoint)
        if self._model is not None and config == self._config:
            load_weights(self._model, checkpoint)
            return
        tokenizer = load_tokenizer(checkpoint)
        ends = end_token_ids(checkpoint, tokenizer)
        self._ends = torch.tensor(ends)
        self._unsampled = torch.tensor(unsampled_token_ids(tokenizer, ends), dtype=torch.long, device=self._device)
        self._model = load_model(checkpoint, dtype=self._dtype, device=self._device)
        self._config = config

    @property
    def has_policy(self) -> bool:
        """Whether a policy was loaded."""
        return self._model is not None

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Serve a copy of `weights`, by name: another version of what was loaded. Raises PolicyError unless all fit."""
        if self._model is None:
            raise RuntimeError("load a policy before taking the weights of another version")
        put_weights(self._model, weights, "a policy in memory")

    def generate(
        self, groups: Sequence[PromptGroup], sampling: Sampling, tell: Tell = unheard
    ) -> list[list[Completion]]:
        """One list of completions per group, in the order of its seeds; the same bits for the same groups."""
        if self._model is None:
            raise RuntimeError("load a policy before generating")
        completions: list[Completion] = []
        for batch in self._batches(groups):
            completions += self._generate_batch(self._model, batch, sampling, tell)
        in_order = iter(completions)
        return [[next(in_order) for _ in group.seeds] for group in groups]

    def _batches(self, groups: Sequence[PromptGroup]) -> Iterator[list[PromptGroup]]:
        """The groups in order, as many together as fit; one that is larger than a batch is split."""
        batch: list[PromptGroup] = []
        rows = 0
        for group in groups:
            for start in range(0, len(group.seeds), self._batch_rows):
                part = PromptGroup(group.prompt_token_ids, group.seeds[start : start + self._batch_rows])
                if rows + len(part.seeds) > self._batch_rows:
                    yield batch
                    batch, rows = [], 0
                batch.append(part)
                rows += len(part.seeds)
        if batch:
            yield batch

    @torch.inference_mode()
    def _generate_batch(
        self, model: PreTrainedModel, groups: Sequence[PromptGroup], sampling: Sampling, tell: Tell
    ) -> list[Completion]:
        decoder = Decoder(model, [group.prompt_token_ids for group in groups])
        rows = _Rows([seed for group in groups for seed in group.seeds], sampling.max_new_tokens)
        active = torch.arange(len(rows.seeds))  # the completions that go on, by their place in the batch
        # Completions with the same tokens so far share a branch: one row of the decoder.
        branch = torch.repeat_interleave(torch.tensor([len(group.seeds) for group in groups]))
        logits = decoder.prefill()
        for step in range(sampling.max_new_tokens):
            logits = sampling_logits(logits, temperature=sampling.temperature, unsampled=self._unsampled)
            drawn, logprobs = draw(logits, branch, rows.uniforms(active, step))
            ended = rows.record(active, step, drawn, logprobs, self._ends)
            if bool(ended.all()) or step + 1 == sampling.max_new_tokens:
                tell(len(active))
                break
            tell(int(ended.sum()))
            active, branch, drawn = active[~ended], branch[~ended], drawn[~ended]
            children, branch = torch.unique(branch * logits.shape[-1] + drawn, return_inverse=True)
            decoder.keep_rows(children // logits.shape[-1])
            logits = decoder.step(children % logits.shape[-1])
        return rows.completions()


def draw(logits: Tensor, branch: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per completion by inversion of the cumulative distribution: one random number, whatever V is.

    logits float32 (B, V) per branch; branch int64 (N,) of each completion; uniform float32 (N,) in [0, 1). Gives
    tokens int64 (N,) and log-probabilities float32 (N,), on the CPU.
    """
    branch, uniform = branch.to(logits.device), uniform.to(logits.device)
    logprobs = logits.log_softmax(-1)
    cumulative = logprobs.exp().cumsum(-1)
    threshold = (uniform * cumulative[branch, -1]).unsqueeze(-1)
    # `right`: a token of probability zero covers no part of the unit interval and is never drawn.
    drawn = torch.searchsorted(cumulative[branch], threshold, right=True).squeeze(-1)
    return drawn.cpu(), logprobs[branch, drawn].cpu()


class _Rows:
    """What was drawn so far, for each of the N completions of a batch."""

    def __init__(self, seeds: Sequence[int], max_new_tokens: int) -> None:
        self.seeds = seeds
        self._generators = [generator(seed) for seed in seeds]
        self._uniforms = torch.empty(len(seeds), UNIFORMS_AT_ONCE)
        self._tokens = torch.empty(len(seeds), max_new_tokens, dtype=torch.int32)
        self._logprobs = torch.empty(len(seeds), max_new_tokens)
        self._lengths = torch.full((len(seeds),), max_new_tokens)
        self._ended = torch.zeros(len(seeds), dtype=torch.bool)

    def uniforms(self, active: Tensor, step: int) -> Tensor:
        """The random number of each active row for this step: the step-th of the row's own stream."""
        if step % UNIFORMS_AT_ONCE == 0:
            for row in active.tolist():
                block = self._generators[row].random(UNIFORMS_AT_ONCE, dtype=np.float32)
                self._uniforms[row] = torch.from_numpy(block)
        return self._uniforms[active, step % UNIFORMS_AT_ONCE]

    def record(self, active: Tensor, step: int, drawn: Tensor, logprobs: Tensor, ends: Tensor) -> Tensor:
        """Keep the tokens of this step; gives which of the active rows have ended, bool (len(active),)."""
        self._tokens[active, step] = drawn.to(torch.int32)
        self._logprobs[active, step] = logprobs
        ends_now = torch.isin(drawn, ends) & ~self._ended[active]
        self._lengths[active[ends_now]] = step + 1
        self._ended[active] |= ends_now
        return self._ended[active]

    def completions(self) -> list[Completion]:
        tokens, logprobs = self._tokens.numpy(), self._logprobs.numpy()
        return [
            Completion(tokens[row, :length].copy(), logprobs[row, :length].copy(), "stop" if ended else "length")
            for row, (length, ended) in enumerate(zip(self._lengths.tolist(), self._ended.tolist(), strict=True))
        ]


class Decoder:
    """Feeds tokens to the model, keeping keys and values, positions and the mask of left-padded prompts."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        self._device = model.device
        width = max(map(len, prompts))
        # Left padding puts the next token of every row into the same slot of the cache.
        self._prompts = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=self._device)
        self._pads = torch.tensor([width - len(p) for p in prompts], device=self._device)  # (B,)
        self._visible = torch.arange(width, device=self._device) >= self._pads[:, None]  # (B, width)
        self._cache = GroupCache(model.config.num_hidden_layers)

    def prefill(self) -> Tensor:
        """Logits (B, V) after the prompts."""
        width = self._prompts.shape[1]
        slots = torch.arange(width, device=self._device)
        causal = slots[:, None] >= slots
        # A padded position sees itself: a row of the mask with nothing visible would give NaN.
        mask = (self._visible[:, None, :] & causal) | torch.eye(width, dtype=torch.bool, device=self._device)
        return self._forward(self._prompts, mask.unsqueeze(1), (slots - self._pads[:, None]).clamp(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits (B, V) after one more token int64 (B,) of each row."""
        self._visible = torch.nn.functional.pad(self._visible, (0, 1), value=True)
        positions = self._cache.length - self._pads
        return self._forward(tokens.to(self._device)[:, None], self._visible[:, None, None, :], positions[:, None])

    def keep_rows(self, rows: Tensor) -> None:
        """Go on with the rows at the places `rows`, int64 (B',), in ascending order: some twice, others no more."""
        if len(rows) == len(self._pads) and bool((rows == torch.arange(len(rows))).all()):
            return
        rows = rows.to(self._device)
        self._cache.keep_rows(rows)
        self._pads, self._visible = self._pads[rows], self._visible[rows]

    def _forward(self, tokens: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        # Added to the scores: attention that is written out in eager PyTorch would add a boolean mask as 0 and 1.
        hidden = torch.finfo(self._model.dtype).min
        output = self._model(
            input_ids=tokens,
            attention_mask=torch.zeros_like(mask, dtype=self._model.dtype).masked_fill(~mask, hidden),
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1]
        return logits
