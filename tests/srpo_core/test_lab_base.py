"""Properties of the lab's base policy and of the command that makes it."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from srpo_core.policy.model import load_tokenizer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.lab.vocabulary import make_tokenizer
from srpo_core.problems.lab.warmup import (
    Recipe,
    base_config,
    chunk_loss,
    draw_batch,
    initial_model,
    make_base,
    orthogonalise,
    warm_up,
)
from srpo_core.problems.lab.world import DOMAINS, Problem, lab_problems, split_of
from srpo_core.problems.templates import render
from srpo_core.rewards.verifiers import Verifiers
from srpo_core.rollout.engine import PromptGroup, Sampling
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.seeds import derive_seed
from srpo_core.settings.rewards import VerifierSettings

BASE = base_policy_dir()
MAX_BYTES = 2_000_000


def held_out_pass_rate(policy: Path, problems: list[Problem], samples: int) -> float:
    """Share of process-checked right completions at temperature 1."""
    tokenizer = load_tokenizer(policy)
    engine = TransformersEngine(batch_rows=1024)
    engine.load(policy)
    groups = [
        PromptGroup(
            render(problem, "plain", tokenizer),
            [derive_seed("base", problem.id, sample) for sample in range(samples)],
        )
        for problem in problems
    ]
    answers = []
    completions = engine.generate(groups, Sampling(temperature=1.0, max_new_tokens=64))
    for problem, group in zip(problems, completions, strict=True):
        for completion in group:
            text = tokenizer.decode(completion.token_ids.tolist(), skip_special_tokens=True)
            answers.append((problem, "" if completion.finish_reason == "length" else str(text)))
    judgements = Verifiers(VerifierSettings(), check_thought=True).judge(answers)
    return sum(judgement.verdict == "correct" for judgement in judgements) / len(answers)


def test_packaged_base_is_small_and_whole() -> None:
    files = {path.name: path.stat().st_size for path in BASE.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert sum(files.values()) <= MAX_BYTES


def test_packaged_base_loads_offline_in_float32_without_missing_weights() -> None:
    model, report = AutoModelForCausalLM.from_pretrained(BASE, local_files_only=True, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(make_tokenizer())
    assert model.num_parameters() < 400_000


def test_packaged_weights_are_bfloat16_values() -> None:
    for value in load_file(BASE / "model.safetensors").values():
        assert torch.equal(value, value.bfloat16().float())


def test_base_half_masters_the_world() -> None:
    problems = lab_problems("heldout", {(domain, n): 12 for domain in DOMAINS for n in range(1, 9)}, 0)
    assert 0.30 < held_out_pass_rate(BASE, problems, samples=4) < 0.55


def test_base_hardly_solves_the_longest_class() -> None:
    problems = lab_problems("heldout", {(domain, 8): 60 for domain in DOMAINS}, 0)
    assert held_out_pass_rate(BASE, problems, samples=4) <= 0.04


def test_warm_up_draws_no_held_out_problem() -> None:
    tokenizer = make_tokenizer()
    stream = random.Random(0)
    for _ in range(10):
        for prompt, _ in draw_batch(Recipe(), tokenizer, stream):
            assert split_of(str(tokenizer.decode(prompt, skip_special_tokens=True))) == "train"


def test_warm_up_loss_does_not_see_the_padding() -> None:
    config = base_config()
    model = initial_model(config, 0)
    pairs = draw_batch(Recipe(batch=8), make_tokenizer(), random.Random(1))
    with torch.no_grad():
        together = chunk_loss(model, pairs, 0)
        apart = sum(float(chunk_loss(model, [pair], 0)) for pair in pairs)
    assert float(together) == pytest.approx(apart, rel=1e-12)


def test_float64_model_of_the_warm_up_is_the_packaged_architecture() -> None:
    """The exact norms and rotations that the warm-up puts in must compute what transformers' own do."""
    exact = initial_model(base_config(), 0)
    plain = type(exact)(base_config())
    plain.load_state_dict({name: value.float() for name, value in exact.state_dict().items()})
    tokens = torch.arange(40).unsqueeze(0)
    with torch.no_grad():
        difference = exact(tokens).logits - plain(tokens).logits
    assert float(difference.abs().max()) < 1e-4


def test_orthogonalised_matrix_has_singular_values_near_one() -> None:
    generator = torch.Generator().manual_seed(0)
    for shape in ((96, 48), (48, 96), (96, 96)):
        matrix = torch.randn(shape, generator=generator, dtype=torch.float64)
        values = torch.linalg.svdvals(orthogonalise(matrix))
        assert float(values.max()) < 1.3
        assert float(values.median()) > 0.6


def test_warm_up_repeats_bit_for_bit_on_one_machine() -> None:
    first, second = (warm_up(Recipe(steps=2, batch=8)).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_command_makes_the_packaged_base_again(tmp_path: Path) -> None:
    """Equal files; weights equal but for a few that arithmetic of another processor rounds one bfloat16 step away."""
    make_base(tmp_path)
    assert (tmp_path / "tokenizer.json").read_text() == (BASE / "tokenizer.json").read_text()
    for name in ("config.json", "tokenizer_config.json"):
        files = [json.loads((folder / name).read_text()) for folder in (tmp_path, BASE)]
        for file in files:
            file.pop("transformers_version", None)
        assert files[0] == files[1], name
    made, packaged = load_file(tmp_path / "model.safetensors"), load_file(BASE / "model.safetensors")
    assert {name: value.shape for name, value in made.items()} == {n: v.shape for n, v in packaged.items()}
    different = 0
    for name, value in made.items():
        # Equal exponents: neighbours in bfloat16 are at most 2**-7 of their size apart.
        torch.testing.assert_close(value, packaged[name], rtol=2**-7, atol=1e-6)
        different += int((value != packaged[name]).sum())
    assert different <= 1e-3 * sum(value.numel() for value in made.values())
