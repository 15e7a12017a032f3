"""The side of the training bench that is ours: `python -m bench.train_ours CASE STEPS` prints what it measured."""

import json
import resource
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from bench.train_case import GROUP, Case
from srpo_core.policy.batch import RolloutBatch
from srpo_core.policy.model import load_model
from srpo_core.policy.packing import model_inputs, prefix_forest
from srpo_core.policy.trainer import Trainer
from srpo_core.settings.update import UpdateSettings

# So small a rate that every repetition learns from the same policy.
SETTINGS = UpdateSettings(learning_rate=1e-12, advantage="group_mean", mask_truncated=False)


def main() -> None:
    """Learn from the case, one step to warm up and STEPS that count."""
    case = Case(**json.loads(Path(sys.argv[1]).read_text()))
    torch.set_num_threads(case.threads)
    trainer = Trainer(Path(case.policy), SETTINGS, temperature=1.0)
    count = len(case.rewards)
    completions = [np.array(completion, dtype=np.int32) for completion in case.completions]
    batch = RolloutBatch(
        prompts=[np.array(prompt, dtype=np.int32) for prompt in case.prompts],
        completions=completions,
        logprobs=[np.zeros(len(completion), dtype=np.float32) for completion in completions],
        rewards=np.array(case.rewards),
        groups=np.arange(count) // GROUP,
        truncated=np.zeros(count, dtype=np.bool_),
    )
    batch = RolloutBatch(**{**vars(batch), "logprobs": trainer.score(batch)})
    seconds, metrics = [], {}
    for _ in range(int(sys.argv[2]) + 1):
        start = time.perf_counter()
        metrics = trainer.update(batch, seed=0)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    learned = np.flatnonzero(np.repeat(np.ptp(batch.rewards.reshape(-1, GROUP), 1) > 0, GROUP))
    computed = prefix_forest(model_inputs([batch.prompts[n] for n in learned], [completions[n] for n in learned]))[1]
    measured = {"seconds": median(seconds[1:]), "peak": peak, "gradient": metrics["grad_norm"]}
    print(json.dumps(measured | {"limit": limit_seconds(Path(case.policy), computed)}))


def limit_seconds(policy: Path, tokens: int) -> float:
    """What the multiplications alone take: 6 operations a parameter and token, at the rate of a plain sgemm here."""
    model = load_model(policy)
    one, other = torch.randn(1024, 576), torch.randn(576, 1536)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        one @ other
        times.append(time.perf_counter() - start)
    rate = 2 * 1024 * 576 * 1536 / median(times)
    return 6 * sum(parameter.numel() for parameter in model.parameters()) * tokens / rate


if __name__ == "__main__":
    main()
