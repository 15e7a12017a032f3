"""TRL's side of the training bench, run by the Python of its own environment: `python bench/train_trl.py CASE STEPS`.

GRPOTrainer as a user would set it up for speed on a CPU: float32, no reference model (beta 0), token-level loss
(dapo), fused AdamW, no gradient checkpointing, no recomputed log-probabilities (one optimizer step a generation).
Completions come from the case through `rollout_func`, rewards with them. A step is timed from its beginning to the
end of the optimizer's step, less `_generate_and_score_completions`. TRL's head goes by chunks too; Liger's kernels are
Triton, which has no CPU.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

GROUP = 8


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer that adds up the time it takes to get and score a batch."""

    preparing = 0.0

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        start = time.perf_counter()
        try:
            return super()._generate_and_score_completions(inputs)
        finally:
            self.preparing += time.perf_counter() - start


class Stopwatch(TrainerCallback):
    """Seconds of each optimizer step, preparation left out."""

    def __init__(self) -> None:
        self.trainer: TimedTrainer
        self.seconds: list[float] = []
        self.gradient = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.trainer.preparing, self.start = 0.0, time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self.start - self.trainer.preparing)

    def on_log(self, *args: Any, logs: dict[str, float], **kwargs: Any) -> None:
        """Keep the gradient's norm."""
        self.gradient = logs.get("grad_norm", self.gradient)


def _settings(case: dict[str, Any], directory: str, steps: int) -> GRPOConfig:
    """Our objective in TRL's words: no KL term, the token mean, advantages not divided by the deviation."""
    return GRPOConfig(
        output_dir=directory,
        per_device_train_batch_size=case["rows"],
        gradient_accumulation_steps=len(case["rewards"]) // case["rows"],
        num_generations=GROUP,
        max_completion_length=max(map(len, case["completions"])),
        max_steps=steps,
        loss_type="dapo",
        scale_rewards="none",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        learning_rate=1e-12,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        shuffle_dataset=False,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )


def main() -> None:
    """Learn from the case, one step to warm up and STEPS that count."""
    case = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(case["threads"])
    count = len(case["rewards"])

    def rollouts(prompts: list[str], trainer: Any) -> dict[str, Any]:
        ids = {"prompt_ids": case["prompts"], "completion_ids": case["completions"]}
        return {**ids, "logprobs": None, "value": case["rewards"]}

    def reward(completions: list[str], value: list[float], **_: Any) -> list[float]:
        return value

    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as directory:
        trainer = TimedTrainer(
            model=AutoModelForCausalLM.from_pretrained(case["policy"], dtype=torch.float32),
            processing_class=AutoTokenizer.from_pretrained(case["policy"]),
            reward_funcs=reward,
            args=_settings(case, directory, int(sys.argv[2]) + 1),
            train_dataset=Dataset.from_dict({"prompt": ["w"] * (count // GROUP)}),
            rollout_func=rollouts,
            callbacks=[stopwatch],
        )
        stopwatch.trainer = trainer
        trainer.train()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": median(stopwatch.seconds[1:]), "peak": peak, "gradient": float(stopwatch.gradient)}))


if __name__ == "__main__":
    main()
