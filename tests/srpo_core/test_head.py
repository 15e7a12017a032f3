"""Properties of the head by blocks, against log_softmax over the whole vocabulary in float64."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from srpo_core.policy.head import Head, token_statistics
from srpo_core.policy.model import sampling_logits

STATES, WIDTH, VOCABULARY = 11, 5, 37
UNSAMPLED = torch.tensor([0, 1, 36])


def case(dtype: torch.dtype, *, bias: bool, seed: int = 0, unsampled: Tensor = UNSAMPLED) -> tuple[Any, ...]:
    """Hidden states, a head with parameters, 17 targets of which some share their predictor."""
    random = torch.Generator().manual_seed(seed)
    hidden = torch.randn(STATES, WIDTH, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    shift = torch.randn(VOCABULARY, generator=random, dtype=torch.float64).to(dtype).requires_grad_() if bias else None
    predictors = torch.randint(1, STATES, (17,), generator=random)  # the first state predicts nothing
    targets = torch.randint(2, VOCABULARY - 1, (17,), generator=random)
    return hidden, Head(weight, shift, 0.7, unsampled), predictors, targets


def plainly(hidden: Tensor, head: Head, predictors: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The definition: all logits at once, the sampler's own function, then log_softmax."""
    logits = hidden[predictors] @ head.weight.t()
    if head.bias is not None:
        logits = logits + head.bias
    tempered = logits / head.temperature
    allowed = torch.ones(len(head.weight), dtype=torch.bool)
    allowed[head.unsampled] = False
    kept = tempered[:, allowed].log_softmax(-1)
    everything = torch.full_like(tempered, -torch.inf).masked_scatter(allowed.expand_as(tempered), kept)
    return everything.gather(1, targets[:, None]).squeeze(1), -(kept.exp() * kept).sum(1)


def gradients(values: tuple[Tensor, Tensor], of: list[Tensor], *, entropy: bool) -> list[Tensor]:
    """Of a sum with unequal weights, of the log-probabilities and of the entropies too when asked."""
    total = (values[0] * torch.linspace(-1, 2, len(values[0]))).sum()
    if entropy:
        total = total + (values[1] * torch.linspace(1, -3, len(values[1]))).sum()
    return list(torch.autograd.grad(total, of))


@given(
    block_elements=st.sampled_from([1, 7, 40, 120, 10**6]),
    bias=st.booleans(),
    entropy=st.booleans(),
    seed=st.integers(0, 3),
    some_unsampled=st.booleans(),
)
def test_blocks_of_any_size_give_the_values_and_gradients_of_the_definition(
    block_elements: int, bias: bool, entropy: bool, seed: int, some_unsampled: bool
) -> None:
    given_case = case(torch.float64, bias=bias, seed=seed, unsampled=UNSAMPLED if some_unsampled else UNSAMPLED[:0])
    parameters = [t for t in (given_case[0], given_case[1].weight, given_case[1].bias) if t is not None]
    expected, measured = plainly(*given_case), token_statistics(*given_case, block_elements=block_elements)
    for one, other in zip(measured, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)
    wanted = gradients(expected, parameters, entropy=entropy)
    for one, other in zip(gradients(measured, parameters, entropy=entropy), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=1e-12)


def test_gradients_equal_differences() -> None:
    hidden, head, predictors, targets = case(torch.float64, bias=True)

    def function(hidden: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        again = Head(weight, bias, head.temperature, head.unsampled)
        return token_statistics(hidden, again, predictors, targets, block_elements=20)

    assert torch.autograd.gradcheck(function, (hidden, head.weight, head.bias))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_elements", [60, 10**6])
def test_sums_are_float32_whatever_the_policy_is(dtype: torch.dtype, block_elements: int) -> None:
    hidden, head, predictors, targets = case(dtype, bias=True)
    exact = Head(head.weight.double(), head.bias.double(), head.temperature, head.unsampled)
    expected = plainly(hidden.double(), exact, predictors, targets)
    measured = token_statistics(hidden, head, predictors, targets, block_elements=block_elements)
    for one, other in zip(measured, expected, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one.double(), other, atol=3e-6, rtol=3e-6)


def test_the_sampler_and_the_trainer_mean_the_same_distribution() -> None:
    hidden, head, predictors, targets = case(torch.float32, bias=False)
    logits = sampling_logits(hidden[predictors] @ head.weight.t(), temperature=0.7, unsampled=UNSAMPLED)
    sampled = logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(token_statistics(hidden, head, predictors, targets)[0], sampled, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("block_elements", [60, 10**6])
def test_a_token_that_is_never_sampled_has_no_probability_and_leaves_finite_gradients(block_elements: int) -> None:
    hidden, head, predictors, targets = case(torch.float32, bias=False)
    targets = targets.index_fill(0, torch.tensor([3]), 1)
    logprobs, entropy = token_statistics(hidden, head, predictors, targets, block_elements=block_elements)
    assert logprobs[3] == -torch.inf
    assert logprobs.isfinite().sum() == len(logprobs) - 1
    kept = torch.arange(len(targets)) != 3
    (logprobs[kept].sum() + entropy.sum()).backward()
    assert hidden.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_what_is_not_a_number_stays_so() -> None:
    hidden, head, predictors, targets = case(torch.float32, bias=False)
    broken = hidden.detach().clone()
    broken[predictors[0]] = torch.nan
    for values in token_statistics(broken, head, predictors, targets, block_elements=60):
        assert (values.isnan() == (predictors == predictors[0])).all()


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, backward passes included."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for made in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(made, Tensor):
                self.elements = max(self.elements, made.untyped_storage().nbytes() // made.element_size())
        return result


@pytest.mark.parametrize("entropy", [False, True])
def test_nothing_larger_than_a_block_or_the_weight_is_ever_made(entropy: bool) -> None:
    tokens, width, vocabulary, block = 512, 8, 4096, 1 << 16
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    head, predictors = Head(weight, None, 1.0, UNSAMPLED), torch.arange(tokens)
    with LargestTensor() as seen:
        values = token_statistics(hidden, head, predictors, predictors + 2, block_elements=block)
        (values[0].sum() + (values[1].sum() if entropy else 0)).backward()
    assert weight.grad is not None
    assert seen.elements == block < tokens * vocabulary / 30
