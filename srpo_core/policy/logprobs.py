"""Log-probabilities that the policy gives to tokens that were sampled already."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import PreTrainedModel

from srpo_core.policy.model import sampling_logits


@dataclass(frozen=True)
class TokenStatistics:
    """Per completion token, flat over the rows given: `logprobs` float32 (T,), `entropy` float32 (T,) in nats."""

    logprobs: Tensor
    entropy: Tensor


def completion_statistics(
    model: PreTrainedModel,
    prompts: Sequence[npt.NDArray[np.int32]],
    completions: Sequence[npt.NDArray[np.int32]],
    *,
    temperature: float,
    unsampled: Tensor,
) -> TokenStatistics:
    """Statistics of every completion token, rows one after another, under the distribution they are sampled from.

    Only `logprobs` carries a gradient. Rows are padded on the right: a causal model never looks there, so no mask
    is needed. The head runs on completion tokens alone.
    """
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    tokens = np.zeros((len(lengths), max(lengths)), dtype=np.int64)
    predicts = np.zeros(tokens.shape, dtype=bool)  # positions whose next token belongs to the completion
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        tokens[row, : len(prompt)] = prompt
        tokens[row, len(prompt) : lengths[row]] = completion
        predicts[row, len(prompt) - 1 : lengths[row] - 1] = True
    device = model.device
    hidden = model.base_model(input_ids=torch.from_numpy(tokens).to(device), use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(hidden[torch.from_numpy(predicts).to(device)])  # (T, V)
    logits = sampling_logits(logits, temperature=temperature, unsampled=unsampled)
    all_logprobs = logits.log_softmax(-1)
    targets = torch.from_numpy(np.concatenate(completions).astype(np.int64)).to(device)
    with torch.no_grad():
        finite = all_logprobs.detach().clamp(min=torch.finfo(torch.float32).min)  # 0 * -inf would be NaN
        entropy = -(finite.exp() * finite).sum(-1)
    return TokenStatistics(all_logprobs.gather(-1, targets[:, None]).squeeze(-1), entropy)
