"""Properties of the in-process engine: what it samples, what it says of it, and that only the seeds decide."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.errors import PolicyError
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.scorer import Scorer
from srpo_core.policy.trainer import Trainer
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.transformers import UNIFORMS_AT_ONCE, TransformersEngine, draw
from srpo_core.seeds import derive_seed, generator
from srpo_core.settings.update import UpdateSettings

Policies = Callable[..., Path]
References = Callable[..., torch.Tensor]
PAD, BOS, EOS = 0, 1, 2


def seeds(n: int, *key: int | str) -> list[int]:
    return [derive_seed(*key, sample) for sample in range(n)]


def group(prompt: Sequence[int], n: int = 16, key: str = "") -> PromptGroup:
    return PromptGroup(prompt, seeds(n, key, *prompt))


GROUPS = [group([5, 6, 7]), group([1]), group([4, 9, 9, 12, 20, 23, 3, 8, 11]), group([1, 5])]


def engine_of(policy: Path, batch_rows: int = 1024) -> TransformersEngine:
    engine = TransformersEngine(batch_rows=batch_rows)
    engine.load(policy)
    return engine


def sample(
    policy: Path,
    groups: Sequence[PromptGroup] = GROUPS,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 30,
    batch_rows: int = 1024,
) -> list[list[Completion]]:
    return engine_of(policy, batch_rows).generate(groups, Sampling(temperature, max_new_tokens))


def flat(groups: Sequence[Sequence[Completion]]) -> list[Completion]:
    return [completion for completions in groups for completion in completions]


def trainer_logprobs(
    model: Any, groups: Sequence[PromptGroup], completions: Sequence[Sequence[Completion]], temperature: float
) -> npt.NDArray[np.float32]:
    prompts = [np.array(g.prompt_token_ids, dtype=np.int32) for g in groups for _ in g.seeds]
    tokens = [completion.token_ids for completion in flat(completions)]
    with torch.no_grad():
        scorer = Scorer(model, temperature=temperature, unsampled=[PAD, BOS])
        values: npt.NDArray[np.float32] = scorer(scorer.pack(prompts, tokens))[0].numpy()
    return values


@pytest.mark.parametrize(
    ("architecture", "temperature"),
    [("llama", 0.7), ("llama", 1.0), ("llama", 1.5), ("qwen2", 1.0), ("gpt_neox", 1.0), ("gptj", 1.0)],
)
def test_sampler_and_trainer_give_the_same_log_probabilities(
    make_policy: Policies, architecture: str, temperature: float
) -> None:
    policy = make_policy(architecture)
    groups = [group(few.prompt_token_ids, 40) for few in GROUPS]
    completions = sample(policy, groups, temperature=temperature)
    lengths = [len(completion.token_ids) for completion in flat(completions)]
    assert min(lengths) == 1  # one ends at once
    assert max(lengths) == 30
    assert len(set(lengths)) > 10
    sampled = np.concatenate([completion.logprobs for completion in flat(completions)])
    trained = trainer_logprobs(load_model(policy), groups, completions, temperature)
    np.testing.assert_allclose(sampled, trained, atol=1e-4, rtol=0)


@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_the_tokens_are_the_seeds_numbers_through_the_inverse_distribution(
    llama: Path, double_llama: torch.nn.Module, token_logprobs: References, temperature: float
) -> None:
    for prompts, completions in zip(GROUPS, sample(llama, temperature=temperature), strict=True):
        for seed, completion in zip(prompts.seeds[:6], completions, strict=False):
            with torch.no_grad():
                table = token_logprobs(double_llama, prompts.prompt_token_ids, completion.token_ids, temperature)
            numbers = generator(seed).random(UNIFORMS_AT_ONCE, dtype=np.float32)[: len(table)]
            tokens = [int((row.exp().cumsum(0) > u).nonzero()[0]) for row, u in zip(table, numbers, strict=True)]
            assert completion.token_ids.tolist() == tokens
            chosen = table[torch.arange(len(tokens)), torch.tensor(tokens)]
            np.testing.assert_allclose(completion.logprobs, chosen, atol=1e-4)


def test_a_rollout_depends_on_its_own_seed_whatever_the_batch(llama: Path) -> None:
    prompt, own = [5, 6, 7], derive_seed(1)
    others = [group([9] * (1 + n % 7), 5, f"other {n}") for n in range(8)]
    among = [*others[:3], PromptGroup(prompt, [derive_seed(8), own, derive_seed(9)]), *others[3:]]
    [[alone]] = sample(llama, [PromptGroup(prompt, [own])])
    for batch_rows in (2, 5, 17, 1024):
        together = sample(llama, among, batch_rows=batch_rows)[3][1]
        assert together.token_ids.tolist() == alone.token_ids.tolist()
        assert together.finish_reason == alone.finish_reason
        np.testing.assert_allclose(together.logprobs, alone.logprobs, atol=1e-5)


def test_equal_seeds_give_equal_rollouts_and_different_seeds_different_ones(llama: Path) -> None:
    [completions] = sample(llama, [PromptGroup([5], [3, 3, *range(100, 130)])])
    assert completions[0].token_ids.tolist() == completions[1].token_ids.tolist()
    assert len({completion.token_ids.tobytes() for completion in completions}) > 20


@pytest.mark.parametrize("batch_rows", [7, 1024])
def test_the_same_groups_again_give_the_same_bits(llama: Path, batch_rows: int) -> None:
    engine = engine_of(llama, batch_rows)
    runs = [engine.generate(GROUPS, Sampling(1.0, 30)) for _ in range(2)]
    runs.append(sample(llama, batch_rows=batch_rows))
    bits = [[(c.token_ids.tobytes(), c.logprobs.tobytes(), c.finish_reason) for c in flat(run)] for run in runs]
    assert bits[0] == bits[1] == bits[2]


@pytest.mark.parametrize("batch_rows", [7, 1024])
@pytest.mark.parametrize("max_new_tokens", [1, 30])
def test_whoever_listens_hears_of_every_completion_once(llama: Path, batch_rows: int, max_new_tokens: int) -> None:
    heard: list[int] = []
    completions = engine_of(llama, batch_rows).generate(GROUPS, Sampling(1.0, max_new_tokens), heard.append)
    assert sum(heard) == len(flat(completions))


@pytest.mark.parametrize("batch_rows", [3, 16, 40])
def test_no_more_rows_than_allowed_are_decoded_together(llama: Path, batch_rows: int) -> None:
    rows = []

    def count(module: torch.nn.Module, arguments: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            rows.append(arguments[0].shape[0])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(count)
    try:
        completions = sample(llama, batch_rows=batch_rows)
    finally:
        hook.remove()
    assert [len(group) for group in completions] == [len(group.seeds) for group in GROUPS]
    assert max(rows) <= batch_rows


def test_tokens_that_completions_of_a_prompt_have_in_common_are_computed_once(llama: Path) -> None:
    shapes = []

    def note(module: torch.nn.Module, arguments: Any) -> None:
        if isinstance(module, torch.nn.Embedding):
            shapes.append(tuple(arguments[0].shape))

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        groups = sample(llama, max_new_tokens=60, temperature=0.4)
    finally:
        hook.remove()
    beginnings = [
        {
            (place, tuple(c.token_ids[:step]))
            for place, group in enumerate(groups)
            for c in group
            if len(c.token_ids) > step
        }
        for step in range(1, 60)
    ]
    assert shapes[0] == (len(GROUPS), 9)
    assert shapes[1:] == [(len(different), 1) for different in beginnings if different]
    assert len(beginnings[0]) < sum(len(group) for group in groups), "no two completions began alike"


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_padding_and_begin_are_never_sampled(make_policy: Policies, temperature: float) -> None:
    for architecture in ("llama", "gpt_neox"):
        for completion in flat(sample(make_policy(architecture), temperature=temperature)):
            assert not set(completion.token_ids.tolist()) & {PAD, BOS}


@pytest.mark.parametrize("max_new_tokens", [1, 2, 9, 30])
def test_a_completion_ends_with_eos_exactly_if_it_stopped(llama: Path, max_new_tokens: int) -> None:
    completions = flat(sample(llama, max_new_tokens=max_new_tokens))
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}
    for completion in completions:
        tokens = completion.token_ids.tolist()
        assert EOS not in tokens[:-1]
        assert (tokens[-1] == EOS) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(tokens) == max_new_tokens
        assert 1 <= len(tokens) <= max_new_tokens
        assert completion.token_ids.dtype == np.int32
        assert completion.logprobs.dtype == np.float32
        assert len(completion.logprobs) == len(tokens)


def test_a_shorter_limit_cuts_the_same_completion(llama: Path) -> None:
    for long, short in zip(flat(sample(llama)), flat(sample(llama, max_new_tokens=6)), strict=True):
        assert short.token_ids.tolist() == long.token_ids[:6].tolist()


def test_completions_of_more_tokens_than_numbers_are_drawn_at_once(
    make_policy: Policies, token_logprobs: References
) -> None:
    policy, limit = make_policy("llama", 400), 2 * UNIFORMS_AT_ONCE + 20
    groups = [group([5], 6), group([7, 8], 6)]
    completions = sample(policy, groups, max_new_tokens=limit)
    sampled = np.concatenate([completion.logprobs for completion in flat(completions)])
    np.testing.assert_allclose(
        sampled, trainer_logprobs(load_model(policy), groups, completions, 1.0), atol=1e-4, rtol=0
    )
    longest, seed, prompt = max(
        (len(completion.token_ids), seed, prompts.prompt_token_ids)
        for prompts, row in zip(groups, completions, strict=True)
        for completion, seed in zip(row, prompts.seeds, strict=True)
    )
    assert longest == limit
    [[alone]] = sample(policy, [PromptGroup(prompt, [seed])], max_new_tokens=limit)
    with torch.no_grad():
        table = token_logprobs(load_model(policy), prompt, alone.token_ids, 1.0)
    stream = generator(seed)
    numbers = np.concatenate([stream.random(UNIFORMS_AT_ONCE, dtype=np.float32) for _ in range(3)])[:limit]
    cumulative = table.exp().cumsum(-1)
    tokens = torch.from_numpy(alone.token_ids).long()[:, None]
    above = cumulative.gather(1, tokens)[:, 0].numpy()
    below = above - table.exp().gather(1, tokens)[:, 0].numpy()
    assert (below - 1e-4 <= numbers).all()
    assert (numbers <= above + 1e-4).all()


def test_two_tokens_follow_the_distribution(llama: Path, double_llama: torch.nn.Module) -> None:
    n, prompt = 6000, [5, 6, 7]
    [completions] = sample(llama, [group(prompt, n, "chi-square")], max_new_tokens=2)
    counts = np.zeros((24, 24))
    for completion in completions:
        counts[completion.token_ids[0], completion.token_ids[-1]] += 1  # one that ended at once counts as (eos, eos)

    def probabilities(*tokens: int) -> npt.NDArray[np.float64]:
        with torch.no_grad():
            logits = double_llama(torch.tensor([[*prompt, *tokens]])).logits[0, -1]
        logits[[PAD, BOS]] = -torch.inf
        values: npt.NDArray[np.float64] = logits.softmax(0).numpy()
        return values

    expected = np.stack([n * p * probabilities(token) for token, p in enumerate(probabilities())])
    expected[EOS] = 0.0
    expected[EOS, EOS] = n * probabilities()[EOS]
    assert counts[expected == 0].sum() == 0
    common = expected >= 5
    cells = [*zip(counts[common], expected[common], strict=True), (counts[~common].sum(), expected[~common].sum())]
    assert len(cells) > 50
    chi_square = sum((seen - due) ** 2 / due for seen, due in cells)
    freedom = len(cells) - 1
    assert abs(chi_square - freedom) < 4 * (2 * freedom) ** 0.5  # too good a fit would be as suspicious


logit_rows = st.lists(st.just(float("-inf")) | st.floats(-200, 200, width=32), min_size=2, max_size=30).filter(
    lambda row: max(row) > float("-inf")
)


@given(logit_rows, st.sampled_from([0.0, 2**-24, 1 - 2**-24]) | st.integers(0, 2**24 - 1).map(lambda n: n * 2**-24))
def test_draw_never_gives_a_token_of_probability_zero(row: list[float], uniform: float) -> None:
    tokens, logprobs = draw(torch.tensor([row]), torch.tensor([0]), torch.tensor([uniform]))
    token = int(tokens[0])
    probabilities = torch.tensor(row, dtype=torch.float64).softmax(0)
    assert 0 <= token < len(row)
    assert row[token] > float("-inf")
    assert probabilities[token] > 0
    assert float(logprobs[0]) == pytest.approx(float(probabilities[token].log()), abs=1e-4)
    cumulative = probabilities.cumsum(0)
    assert float(cumulative[token] - probabilities[token]) - 1e-5 <= uniform <= float(cumulative[token]) + 1e-5


def test_the_largest_number_draws_a_possible_token_of_a_large_vocabulary() -> None:
    logits = torch.full((64, 50_000), float("-inf"))
    logits[:, 100:40_000] = torch.randn(64, 39_900, generator=torch.Generator().manual_seed(0))
    tokens, logprobs = draw(logits, torch.arange(64), torch.full((64,), 1 - 2**-24))
    assert (tokens < 40_000).all()
    assert logprobs.isfinite().all()
    tokens, _ = draw(logits, torch.arange(64), torch.zeros(64))
    assert (tokens == 100).all()


def test_no_groups_give_no_completions(llama: Path) -> None:
    assert sample(llama, []) == []


def test_another_policy_is_served_once_it_is_loaded(make_policy: Policies) -> None:
    engine = engine_of(make_policy("llama"))
    before = engine.generate(GROUPS, Sampling(1.0, 8))
    engine.load(make_policy("qwen2"))
    after = engine.generate(GROUPS, Sampling(1.0, 8))
    expected = sample(make_policy("qwen2"), max_new_tokens=8)
    tokens = [[c.token_ids.tolist() for c in flat(run)] for run in (before, after, expected)]
    assert tokens[1] == tokens[2] != tokens[0]


def test_a_policy_that_is_not_there_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=str(tmp_path)):
        engine_of(tmp_path)
    with pytest.raises(RuntimeError, match="load a policy"):
        TransformersEngine(batch_rows=4).generate(GROUPS, Sampling(1.0, 4))


def test_an_engine_that_goes_on_to_another_version_samples_as_a_new_engine_does(llama: Path, tmp_path: Path) -> None:
    engine = engine_of(llama, 1024)
    first = engine.generate(GROUPS, Sampling(1.0, 30))
    model = load_model(llama)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path)
    load_tokenizer(llama).save_pretrained(tmp_path)
    shutil.copy(llama / "config.json", tmp_path / "config.json")
    engine.load(tmp_path)
    second = engine.generate(GROUPS, Sampling(1.0, 30))
    assert bits(second) == bits(engine_of(tmp_path, 1024).generate(GROUPS, Sampling(1.0, 30)))
    assert bits(second) != bits(first)
    save_file({"model.norm.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(PolicyError, match="weights"):
        engine.load(tmp_path)


def test_weights_from_memory_sample_as_their_checkpoint_does(llama: Path, tmp_path: Path) -> None:
    engine = engine_of(llama, 1024)
    first = engine.generate(GROUPS, Sampling(1.0, 30))
    trainer = Trainer(llama, UpdateSettings(learning_rate=0.05), temperature=1.0)
    rollouts = flat(first)
    trainer.update(
        RolloutBatch(
            prompts=[np.array(each.prompt_token_ids, np.int32) for each in GROUPS for _ in each.seeds],
            completions=[rollout.token_ids for rollout in rollouts],
            logprobs=[rollout.logprobs for rollout in rollouts],
            rewards=np.arange(len(rollouts)) % 2.0,
            groups=np.repeat(np.arange(len(GROUPS)), 16),
            truncated=np.zeros(len(rollouts), np.bool_),
        ),
        seed=1,
    )
    trainer.save(tmp_path)
    weights = trainer.weights()
    assert weights is not None
    engine.take(weights)
    second = engine.generate(GROUPS, Sampling(1.0, 30))
    assert bits(second) == bits(engine_of(tmp_path, 1024).generate(GROUPS, Sampling(1.0, 30)))
    assert bits(second) != bits(first)
    with pytest.raises(PolicyError, match=r"model\.norm\.weight"):
        engine.take({name: value for name, value in weights.items() if name != "model.norm.weight"})


def bits(groups: Sequence[Sequence[Completion]]) -> list[tuple[bytes, bytes]]:
    return [(completion.token_ids.tobytes(), completion.logprobs.tobytes()) for completion in flat(groups)]
