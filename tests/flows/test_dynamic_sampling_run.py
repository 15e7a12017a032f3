"""Dynamic sampling in a whole run, with rollouts that lag: what is sampled, used and counted, and that it resumes."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import TINY, Pipeline
from test_resume import assert_same_run, run_killed

from flows.plan import planned_problems, read_plan
from flows.runs import Run, open_run
from srpo_core.policy.checkpoints import model_checksum
from srpo_core.problems.lab import base_policy_dir

pytestmark = pytest.mark.slow

MAX_ROUNDS = 3
DYNAMIC = f"rollout: {{dynamic_sampling_rounds: {MAX_ROUNDS}, max_staleness: 1, "


def run_with(pipeline: Pipeline, store: Path, *changes: str) -> Run:
    done = pipeline.srpo("run", TINY, "--store", store, *[part for change in changes for part in ("--set", change)])
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return open_run(store, "tiny")


def rows(run: Run, query: str) -> list[dict[str, Any]]:
    return run.history.sql(query).to_pylist()


@pytest.fixture(scope="module")
def run(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = tmp_path_factory.mktemp("dynamic")
    return run_with(pipeline, store, f"rollout.dynamic_sampling_rounds={MAX_ROUNDS}", "rollout.max_staleness=1")


GROUPS = """
    SELECT stage, epoch, step, prompt_id, min(position) AS place, count(*) AS rollouts,
           bool_and(used) AS used, bool_or(used) AS partly, max(accuracy) - min(accuracy) > 1e-6 AS informative
    FROM rollouts GROUP BY ALL ORDER BY stage, epoch, step, place
"""


def test_a_step_uses_its_first_informative_groups_and_no_other(run: Run) -> None:
    needed, size = run.settings.rollout.prompts_per_step, run.settings.rollout.group_size
    steps: dict[Any, list[dict[str, Any]]] = {}
    for group in rows(run, GROUPS):
        assert group["rollouts"] == size
        assert group["used"] == group["partly"]
        steps.setdefault((group["stage"], group["epoch"], group["step"]), []).append(group)
    for groups in steps.values():
        informative = [group["prompt_id"] for group in groups if group["informative"]]
        assert [group["prompt_id"] for group in groups if group["used"]] == informative[:needed]
    assert any(len(groups) > needed for groups in steps.values())


def test_every_planned_prompt_is_sampled_in_its_step_and_refills_are_of_the_same_epoch(run: Run) -> None:
    sampled = Counter((row["stage"], row["epoch"], row["step"], row["prompt_id"]) for row in rows(run, GROUPS))
    assert set(sampled.values()) == {1}
    for stage, epoch in {key[:2] for key in sampled}:
        plan = read_plan(run, stage, epoch)
        mine = {key for key in sampled if key[:2] == (stage, epoch)}
        planned = {
            (stage, epoch, step, problem.id) for step, of in enumerate(planned_problems(run, plan)) for problem in of
        }
        assert planned < mine
        assert {key[3] for key in mine} == {key[3] for key in planned}


def test_the_update_learns_from_the_used_rollouts_alone(run: Run) -> None:
    told = "SELECT value FROM metrics WHERE kind = 'update' AND name = '{}' ORDER BY stage, epoch, step"
    tokens = (
        "SELECT stage, epoch, step, sum(completion_tokens) AS value FROM rollouts WHERE used GROUP BY ALL ORDER BY ALL"
    )
    assert [row["value"] for row in rows(run, told.format("num_tokens"))] == [row["value"] for row in rows(run, tokens)]
    assert {row["value"] for row in rows(run, told.format("frac_reward_zero_std"))} == {0}


def test_what_was_discarded_is_counted(run: Run) -> None:
    counted = rows(
        run,
        """
        SELECT name, value FROM metrics WHERE kind = 'rollout' AND name LIKE 'dynamic_sampling/%'
        ORDER BY stage, epoch, step
        """,
    )
    values: dict[str, list[float]] = {}
    for row in counted:
        values.setdefault(row["name"].removeprefix("dynamic_sampling/"), []).append(row["value"])
    steps = rows(run, "FROM sampling_accounts ORDER BY stage, epoch, step")
    assert values["discarded_rollouts"] == [row["discarded"] for row in steps]
    assert set(values["rounds"]) <= set(range(1, MAX_ROUNDS + 1))
    size = run.settings.rollout.prompts_per_step * run.settings.rollout.group_size
    assert values["missing_groups"] == [(size - row["used"]) / run.settings.rollout.group_size for row in steps]


def test_resampling_counts_every_rollout_of_a_prompt_once(run: Run) -> None:
    visits = rows(run, "SELECT stage, epoch + 1 AS epoch, prompt_id, graded, correct FROM prompt_stats ORDER BY ALL")
    decided = rows(
        run,
        """
        SELECT stage, epoch, prompt_id, graded, correct
        FROM decisions AS d SEMI JOIN prompt_stats AS p
            ON p.stage = d.stage AND p.epoch + 1 = d.epoch AND p.prompt_id = d.prompt_id
        WHERE selector = 'history' ORDER BY ALL
        """,
    )
    assert decided == visits
    assert max(row["graded"] for row in decided) > run.settings.rollout.group_size


def test_dynamic_sampling_changes_no_staleness(run: Run) -> None:
    assert {row["staleness"] for row in rows(run, "FROM staleness WHERE step > 0")} == {1}


def test_a_run_killed_between_rounds_is_the_same_bit_for_bit(pipeline: Pipeline, run: Run, tmp_path: Path) -> None:
    settings = tmp_path / "dynamic.yaml"
    settings.write_text(TINY.read_text().replace("rollout: {", DYNAMIC))
    first = ("run", settings, "--run-id", "tiny", "--store", tmp_path)
    kills = (("before a refill", 1), ("before a refill", 3), ("in the middle of a shard", 2))
    run_killed(pipeline, tmp_path, *kills, ("between shards and index", 1), first=first)
    resumed = pipeline.srpo("resume", "tiny", "--store", tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(tmp_path, "tiny"), run)


def test_steps_in_which_nothing_is_informative_end_and_make_versions_equal_to_the_base(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    # Two tokens are never an answer: every group is all wrong.
    run = run_with(pipeline, tmp_path, "rollout.dynamic_sampling_rounds=2", "rollout.max_new_tokens=2")
    steps = rows(run, "FROM sampling_accounts ORDER BY stage, epoch, step")
    assert {row["used"] for row in steps} == {0}
    assert {row["discarded_share"] for row in steps} == {1}
    told = rows(run, "SELECT name, value FROM metrics WHERE kind = 'update'")
    for name in ("optimizer_steps", "num_tokens", "loss"):
        assert {row["value"] for row in told if row["name"] == name} == {0}
    versions = rows(run, "SELECT sha256 FROM policies WHERE version > 0")
    assert len(versions) == len(steps)
    assert {row["sha256"] for row in versions} == {model_checksum(base_policy_dir())}
