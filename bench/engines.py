"""Useful tokens a second sampled by our engine, beside `generate` of transformers on the same prompts and model.

One step of the lab's base on one thread: 32 prompts with the demo's 8 samples each, and with 32, the group size that
one source tells of the paper.
"""

import torch
from transformers import PreTrainedModel

from bench.figures import Figure, options, tell, timed_in_turn
from bench.lab_batch import SAMPLING, lab_engine, lab_step, sample
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.problem import Problem
from srpo_core.problems.templates import render
from srpo_core.rollout.transformers import TransformersEngine

GOAL = 5.0


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    model, engine = load_model(base_policy_dir()), lab_engine()
    tell([measure(engine, model, group_size, 3 if asked.quick else 15) for group_size in (8, 32)], asked)


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


def generate_useful_tokens(model: PreTrainedModel, problems: list[Problem], group_size: int) -> int:
    """Sample the step with `generate`; gives the tokens up to each row's end."""
    tokenizer = load_tokenizer(base_policy_dir())
    prompts = [render(problem, "plain", tokenizer) for problem in problems]
    width = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    with torch.inference_mode():
        rows = model.generate(
            input_ids=ids,
            attention_mask=(ids != pad).long(),
            do_sample=True,
            top_k=0,
            num_return_sequences=group_size,
            max_new_tokens=SAMPLING.max_new_tokens,
            pad_token_id=pad,
        )
    completions = rows[:, width:]
    before_end = (completions == eos).cumsum(1) - (completions == eos).long() == 0
    return int((before_end & (completions != pad)).sum())


if __name__ == "__main__":
    main()
