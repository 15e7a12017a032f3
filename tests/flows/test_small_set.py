"""When a stage ends for want of prompts: a large set at one step's, a small one at half of what it began with."""

from pathlib import Path

import pytest
from pipeline_process import TINY

from flows.plan import new_prompt, publish_plan, read_problems
from flows.prepare import plan_first_epoch, write_problems
from flows.runs import create_run
from flows.transition import decide_stage
from srpo_core.settings_file import load_settings


@pytest.mark.parametrize(
    ("began", "left", "decision"),
    [
        (24, 8, "continue"),
        (24, 7, "switch"),
        (8, 7, "continue"),
        (8, 4, "continue"),
        (8, 3, "switch"),
        (8, 0, "switch"),
    ],
)
def test_a_small_set_trains_on_until_less_than_half_of_it_is_left(
    tmp_path: Path, began: int, left: int, decision: str
) -> None:
    run = create_run(tmp_path, "r1", load_settings(TINY, [f"problems.train={began // 8}"]))  # 8 a step
    write_problems.fn(run)
    plan_first_epoch.fn(run)
    problems = [problem for problem in read_problems(run, "train") if problem.domain == "math"]
    assert len(problems) == began
    kept = [{**new_prompt(problem, "test"), "keep": place < left} for place, problem in enumerate(problems)]
    publish_plan(run, 1, 1, kept, first_version=3, selector="test")
    assert decide_stage(run, 1, 0) == decision
