"""The pipeline learns: what it gains, a policy without updates does not."""

from pathlib import Path

import pytest
from pipeline_process import Pipeline

from flows.runs import open_run

SETTINGS = """
problems: {train: 40, heldout: 40}
update: {learning_rate: 4.0e-4, beta2: 0.98}
rollout: {max_new_tokens: 64}
stages:
  math: {max_steps: 20}
  math_and_code: {max_steps: 20}
evaluation: {samples: 2, every_epochs: 100}
"""
# Of 640 held-out problems, twice each: the standard error of a difference is below 0.02.
MARGIN = 0.06


@pytest.mark.slow
def test_a_short_run_beats_its_base_by_a_margin_that_a_policy_without_updates_does_not_reach(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    settings = tmp_path / "learning.yaml"
    settings.write_text(SETTINGS)
    gains = {}
    for name, rate in (("updated", "4e-4"), ("frozen", "1e-12")):
        done = pipeline.srpo(
            "run", settings, "--run-id", name, "--store", tmp_path, "--set", f"update.learning_rate={rate}"
        )
        assert done.returncode == 0, done.stderr
        rows = open_run(tmp_path, name).history.sql(
            "SELECT pass_at_1 FROM evaluations WHERE domain IS NULL AND difficulty IS NULL ORDER BY stage, after"
        )
        scores = rows["pass_at_1"].to_pylist()
        gains[name] = scores[-1] - scores[0]
    assert gains["updated"] >= MARGIN
    assert abs(gains["frozen"]) < MARGIN / 2
