"""Lost servers are waited for; what another attempt cannot mend is told at once."""

import pytest
from pipeline_process import HERE, Pipeline


@pytest.mark.parametrize(("error", "outcome"), [("lost", "5 EngineUnavailableError"), ("stale", "1 StaleWeightsError")])
def test_a_step_is_tried_again_when_servers_were_lost_and_only_then(
    pipeline: Pipeline, error: str, outcome: str
) -> None:
    done = pipeline.python(HERE / "lost_servers_run.py", error)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == outcome
