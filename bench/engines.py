"""Useful tokens a second sampled by our engine, beside `generate` of transformers on the same prompts and model."""

import torch
from transformers import PreTrainedModel

from bench.figures import Figure, options, tell, timed_in_turn
from bench.lab_batch import GROUP_SIZE, SAMPLING, lab_engine, lab_step, sample
from srpo_core.policy.model import load_model, load_tokenizer
from srpo_core.problems.lab import base_policy_dir
from srpo_core.problems.problem import Problem
from srpo_core.problems.templates import render

GOAL = 5.0


def main() -> None:
    """Measure and tell."""
    asked = options(__doc__ or "")
    problems, engine = lab_step(), lab_engine()
    model = load_model(base_policy_dir())
    ours = sum(len(rollout.completion.token_ids) for rollout in sample(engine, problems))
    theirs = generate_useful_tokens(model, problems)
    repetitions = 5 if asked.quick else 25
    seconds = timed_in_turn(
        repetitions, lambda: sample(engine, problems), lambda: generate_useful_tokens(model, problems)
    )
    rates = ours / seconds[0], theirs / seconds[1]
    goal = f">= {GOAL:g} x generate"
    tell([Figure("useful tokens sampled", rates[0], "tokens/s", rates[1], goal, rates[0] >= GOAL * rates[1])], asked)


def generate_useful_tokens(model: PreTrainedModel, problems: list[Problem]) -> int:
    """Sample the step with `generate`; gives the tokens up to each row's end."""
    tokenizer = load_tokenizer(base_policy_dir())
    prompts = [render(problem.question, "plain", tokenizer) for problem in problems]
    width = max(map(len, prompts))
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    with torch.inference_mode():
        rows = model.generate(
            input_ids=ids,
            attention_mask=(ids != pad).long(),
            do_sample=True,
            top_k=0,
            num_return_sequences=GROUP_SIZE,
            max_new_tokens=SAMPLING.max_new_tokens,
            pad_token_id=pad,
        )
    completions = rows[:, width:]
    before_end = (completions == eos).cumsum(1) - (completions == eos).long() == 0
    return int((before_end & (completions != pad)).sum())


if __name__ == "__main__":
    main()
