"""Properties of the trainer's log-probabilities, against one float64 forward pass per rollout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.model import load_model, load_tokenizer, sampling_logits, unsampled_token_ids

Batches = Callable[..., RolloutBatch]
References = Callable[..., torch.Tensor]
Statistics = Callable[..., tuple[torch.Tensor, torch.Tensor]]
UNSAMPLED = torch.tensor([0, 1])


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_log_probabilities_and_entropy_equal_the_definition(
    llama: Path,
    double_llama: torch.nn.Module,
    token_logprobs: References,
    statistics_of: Statistics,
    make_batch: Batches,
    temperature: float,
) -> None:
    batch = make_batch(seed=1)
    logprobs, entropy = [], []
    with torch.no_grad():
        for prompt, completion in zip(batch.prompts, batch.completions, strict=True):
            table = token_logprobs(double_llama, prompt, completion, temperature)
            logprobs += [float(row[token]) for row, token in zip(table, completion, strict=True)]
            entropy += [float(-(row.exp() * row)[row > -torch.inf].sum()) for row in table]
    measured = statistics_of(load_model(llama), batch.prompts, batch.completions, temperature)
    np.testing.assert_allclose(measured[0].detach(), logprobs, atol=1e-5)
    np.testing.assert_allclose(measured[1].detach(), entropy, atol=1e-5)


@pytest.mark.parametrize("padding", [0.0, 0.5, 100.0])  # nothing padded, as on a GPU; some grids; one grid
@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt_neox", "gptj"])
def test_a_rollout_has_the_same_statistics_alone_and_beside_others(
    make_policy: Callable[..., Path], statistics_of: Statistics, make_batch: Batches, architecture: str, padding: float
) -> None:
    batch, model = make_batch(seed=2), load_model(make_policy(architecture))
    lengths, given = batch.completion_lengths.tolist(), (batch.prompts, batch.completions)
    together = [values.detach().split(lengths) for values in statistics_of(model, *given, padding=padding)]
    for row, expected in enumerate(zip(*together, strict=True)):
        alone = statistics_of(model, [batch.prompts[row]], [batch.completions[row]])
        for one, other in zip(alone, expected, strict=True):
            torch.testing.assert_close(one.detach(), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unsampled_tokens_have_no_probability_and_the_others_all_of_it(dtype: torch.dtype) -> None:
    logits = sampling_logits(torch.randn(5, 24).to(dtype), temperature=0.7, unsampled=UNSAMPLED)
    assert logits.dtype == torch.float32
    probabilities = logits.softmax(-1)
    assert (probabilities[:, UNSAMPLED] == 0).all()
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(5))


def test_padding_and_begin_are_unsampled_and_the_end_never_is(llama: Path) -> None:
    tokenizer = load_tokenizer(llama)
    assert unsampled_token_ids(tokenizer) == [0, 1]
    tokenizer.pad_token = tokenizer.eos_token
    assert unsampled_token_ids(tokenizer) == [1]
    tokenizer.bos_token = tokenizer.eos_token
    assert unsampled_token_ids(tokenizer) == []
