"""The rule by which a stage ends, over a run's committed history; storage/sql/transition.sql tells it."""

import pyarrow as pa

from flows.runs import Run
from flows.stages import step_limit
from srpo_core.config import Settings

_DECISION = """
    SELECT * EXCLUDE (run)
    FROM stage_decision($stage, $epoch, $window, $min_gain, $max_steps, $min_prompts)
"""


def stage_decision(run: Run, settings: Settings, stage: int, epoch: int) -> pa.Table:
    """What `settings` decide about a stage after one of its epochs: a row of the table `transitions`.

    It looks at nothing later than the epoch, so that past decisions can be made again.
    """
    thresholds = _thresholds(run, settings, stage)
    return run.history.sql(_DECISION, thresholds | {"stage": stage, "epoch": epoch})


def _thresholds(run: Run, settings: Settings, stage: int) -> dict[str, float]:
    """What the settings say about the end of a stage, as the SQL macro takes it."""
    transition = settings.stages.transition
    began = run.history.read("epochs", stage=stage, epoch=0, name="rows")["prompts"][0].as_py()
    return {
        "window": transition.window,
        "min_gain": transition.min_gain,
        "max_steps": step_limit(settings, stage),
        # A step's worth; of a stage that began with little more or less than one, half of what it began with.
        "min_prompts": min(settings.rollout.prompts_per_step, -(-began // 2)),
    }
