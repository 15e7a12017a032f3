"""A run whose updates are not finite: versions that equal the last, a record of who did it, and an end."""

from pathlib import Path

import pytest
from pipeline_process import TINY, Pipeline

from flows.runs import open_run

TOLD = """
    SELECT step, name, value FROM metrics WHERE kind = 'update' AND name LIKE '{}' ORDER BY stage, epoch, step, name
"""


@pytest.mark.slow
def test_updates_that_are_not_finite_leave_the_weights_are_recorded_and_end_the_run(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = ("update.learning_rate=1e39", "update.minibatches=2", "update.not_finite_limit=2")
    arguments = [part for setting in settings for part in ("--set", setting)]
    done = pipeline.srpo("run", TINY, "--store", tmp_path, *arguments)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("srpo: 2 updates in a row were not finite (update.not_finite_limit)")
    assert "update.learning_rate" in done.stderr
    run = open_run(tmp_path, "tiny")
    history = run.history
    assert sorted(path.name for path in (run.directory / "policies").iterdir()) == ["version-000000", "version-000001"]
    assert run.policy(1).joinpath("model.safetensors").read_bytes() == (
        run.policy(0).joinpath("model.safetensors").read_bytes()
    )
    (left_out,) = history.sql(TOLD.format("left_out/not_finite")).to_pylist()
    assert (left_out["step"], left_out["value"]) == (0, 1.0)
    for step in (0, 1):
        rows = [row for row in history.sql(TOLD.format("not_finite/%")).to_pylist() if row["step"] == step]
        rollouts = {row["name"].removeprefix("not_finite/rollout/") for row in rows if "/rollout/" in row["name"]}
        sampled = history.sql(f"SELECT prompt_id, sample FROM rollouts WHERE stage = 1 AND step = {step}").to_pylist()
        assert rollouts
        assert rollouts <= {f"{row['prompt_id']}/{row['sample']}" for row in sampled}
        assert all(row["value"] >= 1 for row in rows if "/tensor/" in row["name"])
        assert any("/tensor/" in row["name"] for row in rows)
    again = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert (again.returncode, again.stderr) == (done.returncode, done.stderr)
