"""Rows for tests: small, whole groups, every column filled."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from storage.selectors import load_rule, record_visits, select
from storage.tables import SHARDS

UNPENALISED = {"tests_passed": None, "format": 1.0, "code_in_math": 0.0, "mixed_language": 0.0, "overlong": 0.0}


def shard_rows(
    prompts: list[str],
    accuracies: Sequence[Sequence[float | None]],
    *,
    position: int = 0,
    tokens: int = 3,
    version: int = 0,
    seed: int = 0,
) -> pa.Table:
    """One group per prompt, one rollout per accuracy; the key columns are left to the path. The reward adds a format
    bonus that differs within the group, so that equal accuracy is not equal reward."""
    random = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for prompt, group in zip(prompts, accuracies, strict=True):
        for sample, accuracy in enumerate(group):
            rows.append(
                {
                    "position": position + len(rows),
                    "prompt_id": prompt,
                    "domain": "math",
                    "difficulty": 3,
                    "sample": sample,
                    "seed": position * 1000 + sample,
                    "policy_version": version,
                    "prompt_tokens": 2,
                    "completion_tokens": tokens,
                    "finish_reason": "length" if sample == 0 else "stop",
                    "verdict": "ungraded" if accuracy is None else "graded",
                    "accuracy": accuracy,
                    **UNPENALISED,
                    "format": sample % 2,
                    "reward": None if accuracy is None else accuracy + 0.1 * (sample % 2),
                    "used": True,
                    "prompt": f"solve {prompt}",
                    "completion": f"answer {prompt} {sample} {accuracy}",
                    "prompt_token_ids": [1, 2],
                    "token_ids": random.integers(0, 2**31 - 1, tokens, dtype=np.int32),
                    "logprobs": random.normal(-1, 1, tokens).astype(np.float32),
                }
            )
    schema = pa.schema([field for field in SHARDS.schema if field.name not in SHARDS.key])
    return pa.Table.from_pylist(rows, schema=schema)


def decision(prompt: str, *, keep: bool = True, step: int | None = 0) -> dict[str, Any]:
    """A decision about one prompt."""
    return {
        "prompt_id": prompt,
        "domain": "math",
        "difficulty": 3,
        "keep": keep,
        "bucket": "new",
        "reason": "new: not sampled yet",
        "graded": 0,
        "correct": 0,
        "pass_rate": None,
        "selector": "history",
        "step": step if keep else None,
        "position": 0 if keep else None,
        "weight": None,
        "visits": 0,
        "last_stage": None,
        "last_epoch": None,
    }


def fill(history: Any) -> None:
    """A run of two epochs in which a goes from hard to mixed, b from mixed to easy, c stays hard; evaluations too."""
    wrong, right = [0.0, 0.0], [1.0, 1.0]
    problem = {"domain": "math", "difficulty": 3, "answer": "4", "source": "test", "split": "train"}
    history.publish("prompts", [{"prompt_id": p, "question": f"{p}?", **problem} for p in "abc"], stage=0, epoch=0)
    removed = {"steps": 1, "shards": 1, "rollouts": 2, "bytes": 1000}  # of stage 0, which has no steps: all is readable
    history.publish("pruned", [removed], stage=0, epoch=0)
    change = {"change": 1, "policy_version": 0, "setting": "guards.max_hours", "before": "1.0", "after": "2.0"}
    history.publish("changes", [change], stage=0, epoch=0)
    history.publish("machines", [{"machine": "0" * 16, "fact": "python", "value": "3.11"}], stage=0, epoch=0)
    for epoch, groups in enumerate([[wrong, [0.0, 1.0], wrong], [[1.0, 0.0], right, wrong]]):
        history.publish("decisions", [decision(p) for p in "abc"], stage=1, epoch=epoch)
        plan = {"prompts": 3, "steps": 1, "first_version": epoch, "selector": "history"}
        history.publish("epochs", [plan], stage=1, epoch=epoch)
        history.write_shard(1, epoch, 0, 0, shard_rows(["a", "b"], groups[:2], version=epoch))
        history.write_shard(1, epoch, 0, 1, shard_rows(["c"], groups[2:], position=4, version=epoch))
        history.commit_step(1, epoch, 0, 2)
        record_visits(history, stage=1, epoch=epoch)
        metric = {"step": 0, "policy_version": epoch, "kind": "update", "name": "reward", "value": 0.5}
        history.publish("metrics", [metric], stage=1, epoch=epoch)
        policy = {"version": epoch + 1, "step": 0, "path": f"policies/version-{epoch + 1:06d}", "sha256": "0" * 64}
        history.publish("policies", [policy], stage=1, epoch=epoch)
        move = {"decision": "continue", "reason": "still rising", "slope": None, "gain": 0.1, "window": 4, "steps": 1}
        move["prompts"] = 3
        history.publish("transitions", [move], stage=1, epoch=epoch)
        _evaluate(history, epoch)


def _evaluate(history: Any, epoch: int) -> None:
    """An evaluation of one held-out problem by two samples."""
    figures = {
        "n": 1,
        "samples": 2,
        "pass_at_1": 0.5,
        "low": 0.0,
        "high": 1.0,
        "pass_at_k": 1.0,
        "mean_tokens": 3.0,
        "truncated": 0.0,
        "ungraded": 0.0,
    }
    summary = {
        "suite": "heldout",
        "after": epoch,
        "policy_version": epoch,
        "domain": None,
        "difficulty": None,
        **figures,
    }
    history.publish("evaluations", [summary], stage=1, epoch=epoch)
    rollout = {
        "suite": "heldout",
        "prompt_id": "h",
        "domain": "math",
        "difficulty": 3,
        "seed": 1,
        "policy_version": epoch,
    }
    ended = {"completion_tokens": 3, "finish_reason": "stop", "verdict": "graded", **UNPENALISED, "reward": 1.0}
    rows = [
        {**rollout, **ended, "sample": s, "accuracy": float(epoch), "completion": f"held {epoch}"} for s in range(2)
    ]
    history.publish("evaluation_rollouts", rows, stage=1, epoch=epoch)


def selected(history: Any, *, stage: int, epoch: int) -> pa.Table:
    """What the paper's rule decides after an epoch."""
    record_visits(history, stage=stage, epoch=epoch)
    return select(history, load_rule("history"), {"seed": 0, "prompts_per_step": 1}, stage=stage, epoch=epoch)
