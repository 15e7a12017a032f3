"""A run that starts its own vLLM server: it ends as it must, whatever is killed, and nothing of the server stays."""

import json
from pathlib import Path

import pytest
from pipeline_process import HERE, Pipeline
from vllm_environment import MARK, all_end, marked, vllm_python
from vllm_policies import tiny_model, write_version

from flows.runs import Run, open_run
from flows.status import is_finished

pytestmark = pytest.mark.slow

STOP_SECONDS = 60.0


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    """Settings of a small run on vLLM, of a policy that knows nothing; its name marks the server's processes."""
    python = vllm_python()
    policy = write_version(tmp_path / "policy", tiny_model(0), 0)
    for name in ("optimizer.safetensors", "trainer.json", "probe.safetensors"):
        (policy / name).unlink()  # a bare model, as a user has it
    file = tmp_path / "served.yaml"
    values = {
        "policy": {"model": str(policy)},
        "problems": {"train": 2, "heldout": 1},
        "rollout": {"prompts_per_step": 6, "group_size": 4, "max_new_tokens": 24},
        "engine": {
            "kind": "vllm",
            "python": python,
            "arguments": ["--enforce-eager", "--max-model-len", "256"],
            "environment": {MARK: str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1"},
        },
        "rewards": {"mixed_language": 0.5},  # what random bytes are paid for, so that there is something to learn
        "update": {"learning_rate": 1e-3},
        "stages": {"math": {"max_steps": 2}, "math_and_code": {"max_steps": 3}},
        "evaluation": {"samples": 2, "every_epochs": 4},
    }
    file.write_text(json.dumps(values))
    return file


def assert_whole(run: Run) -> None:
    """Every step was sampled by the version before it, and every hand-over was proved."""
    sampled = run.history.sql(
        "SELECT stage, epoch, step, min(policy_version) AS low, max(policy_version) AS high, count(*) AS n "
        "FROM trajectories GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    assert [row["low"] for row in sampled] == list(range(len(sampled)))
    assert all(row["low"] == row["high"] for row in sampled)
    proofs = run.history.sql(
        "SELECT policy_version, max(value) AS value FROM metrics WHERE name = 'engine/probe_logp_difference' "
        "AND kind = 'rollout' GROUP BY ALL ORDER BY ALL"
    ).to_pylist()
    assert [row["policy_version"] for row in proofs] == [row["low"] for row in sampled]
    assert all(0 <= row["value"] < run.settings.engine.tolerance for row in proofs)


def test_a_killed_pipeline_leaves_no_server_and_goes_on_with_another(
    pipeline: Pipeline, settings: Path, tmp_path: Path
) -> None:
    store, kills = tmp_path / "store", json.dumps([("before the checkpoint is published", 1)])
    following = ("resume", "served", "--store", store)
    killed = pipeline.python(HERE / "killed_run.py", kills, "run", settings, "--store", store, "--", *following)
    assert killed.returncode == 0, killed.stdout + killed.stderr
    assert all_end(marked(str(tmp_path)), STOP_SECONDS)
    resumed = pipeline.srpo(*following)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert_ended(open_run(store, "served"), servers=2, mark=str(tmp_path))


def test_a_killed_server_is_replaced_while_the_run_goes_on(pipeline: Pipeline, settings: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = pipeline.python(HERE / "server_killed_run.py", tmp_path, "run", settings, "--store", store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_ended(open_run(store, "served"), servers=2, mark=str(tmp_path))


def assert_ended(run: Run, *, servers: int, mark: str) -> None:
    assert is_finished(run)
    assert_whole(run)
    assert (run.directory / "vllm.log").read_text().count("\n$ ") == servers
    assert not (run.directory / "served").exists()
    assert all_end(marked(mark), STOP_SECONDS)
