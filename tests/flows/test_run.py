"""A whole run, from its history: what was sampled, learned and decided, and that each happened once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import TINY, Pipeline, UndisturbedRun

from flows.runs import Run, open_run


@pytest.fixture(scope="module")
def run(undisturbed: UndisturbedRun) -> Run:
    return open_run(undisturbed.store, undisturbed.name)


def rows(run: Run, query: str) -> list[dict[str, Any]]:
    return run.history.sql(query).to_pylist()


def test_both_stages_have_two_epochs_or_more(run: Run) -> None:
    epochs = Counter(row["stage"] for row in rows(run, "FROM epochs"))
    assert epochs[1] >= 2
    assert epochs[2] >= 2


def test_every_planned_prompt_is_sampled_exactly_once_an_epoch_in_its_step(run: Run) -> None:
    planned = {
        (row["stage"], row["epoch"], row["step"], row["prompt_id"])
        for row in rows(
            run, "FROM decisions JOIN (SELECT DISTINCT stage, epoch FROM rollouts) USING (stage, epoch) WHERE keep"
        )
    }
    sampled = Counter(
        (row["stage"], row["epoch"], row["step"], row["prompt_id"]) for row in rows(run, "SELECT * FROM rollouts")
    )
    assert set(sampled) == planned
    assert set(sampled.values()) == {run.settings.rollout.group_size}


def test_every_committed_step_made_exactly_one_policy_version(run: Run) -> None:
    steps = rows(run, "SELECT DISTINCT stage, epoch, step FROM rollouts ORDER BY ALL")
    versions = rows(run, "SELECT * FROM policies WHERE version > 0 ORDER BY version")
    assert [(row["stage"], row["epoch"], row["step"]) for row in versions] == [tuple(row.values()) for row in steps]
    assert [row["version"] for row in versions] == list(range(1, len(steps) + 1))


def test_on_policy_rollouts_are_sampled_by_the_version_that_learns_from_them(run: Run) -> None:
    assert {row["staleness"] for row in rows(run, "FROM staleness")} == {0}


def test_the_policy_that_learned_agrees_with_the_sampler_on_every_log_probability(run: Run) -> None:
    worst = rows(run, "SELECT max(value) AS worst FROM metrics WHERE name = 'sampling/sampling_logp_difference/max'")
    assert worst[0]["worst"] < 1e-4


def test_every_decision_follows_the_papers_rule(run: Run) -> None:
    group_rows = rows(run, "SELECT stage, epoch, prompt_id, graded, correct FROM prompt_stats")
    visits = {(row["stage"], row["epoch"], row["prompt_id"]): row for row in group_rows}
    decided = [row for row in rows(run, "FROM decisions") if row["selector"] == "history"]
    assert decided
    out = [row for row in decided if (row["stage"], row["epoch"] - 1, row["prompt_id"]) not in visits]
    assert out
    assert {(row["keep"], row["bucket"], row["reason"]) for row in out} == {
        (False, "easy", "dropped before: stays out")
    }
    for row in decided:
        if row not in out:
            visit = visits[row["stage"], row["epoch"] - 1, row["prompt_id"]]
            assert row["keep"] == (visit["correct"] < visit["graded"])
            assert row["reason"]


def test_every_candidate_is_decided_about_in_every_epoch(run: Run) -> None:
    prompts = Counter(row["domain"] for row in rows(run, "FROM prompts WHERE split = 'train'"))
    decided = Counter((row["stage"], row["epoch"]) for row in rows(run, "FROM decisions"))
    for (stage, _), count in decided.items():
        assert count == (prompts["math"] if stage == 1 else prompts["math"] + prompts["code"])


def test_the_visits_are_what_the_rollouts_say_and_decisions_count_them(run: Run) -> None:
    columns = "stage, epoch, prompt_id, rollouts, graded, correct"
    visits = rows(run, f"SELECT {columns}, mean_reward, mean_tokens FROM visits ORDER BY ALL")
    found = rows(run, f"SELECT {columns}, mean_reward, mean_length AS mean_tokens FROM prompt_stats ORDER BY ALL")
    assert [{**row, "mean_reward": round(row["mean_reward"], 9)} for row in visits] == [
        {**row, "mean_reward": round(row["mean_reward"], 9)} for row in found
    ]
    for row in rows(run, "FROM decisions"):
        before = [
            (visit["stage"], visit["epoch"])
            for visit in visits
            if visit["prompt_id"] == row["prompt_id"]
            and (visit["stage"], visit["epoch"]) < (row["stage"], row["epoch"])
        ]
        last = before[-1] if before else (None, None)
        assert (row["visits"], row["last_stage"], row["last_epoch"]) == (len(before), *last)


def test_stage_two_begins_with_all_code_prompts_and_the_math_prompts_that_stage_one_kept(run: Run) -> None:
    last = rows(run, "SELECT max(epoch) AS epoch FROM decisions WHERE stage = 1")[0]["epoch"]
    kept = {row["prompt_id"] for row in rows(run, f"FROM decisions WHERE stage = 1 AND epoch = {last} AND keep")}
    code = {row["prompt_id"] for row in rows(run, "FROM prompts WHERE split = 'train' AND domain = 'code'")}
    begins = rows(run, "FROM decisions WHERE stage = 2 AND epoch = 0")
    assert {row["prompt_id"] for row in begins if row["keep"]} == kept | code
    assert {row["prompt_id"] for row in begins} == {
        row["prompt_id"] for row in rows(run, "FROM prompts WHERE split = 'train'")
    }


def test_stage_one_samples_math_only(run: Run) -> None:
    assert {row["domain"] for row in rows(run, "SELECT DISTINCT domain FROM rollouts WHERE stage = 1")} == {"math"}
    assert {row["domain"] for row in rows(run, "SELECT DISTINCT domain FROM rollouts WHERE stage = 2")} == {
        "math",
        "code",
    }


def test_the_transition_says_which_rule_ended_the_stage_and_on_what_figures(run: Run) -> None:
    (ended,) = rows(run, "FROM transitions WHERE stage = 1 AND decision = 'switch'")
    assert "step limit of 4" in ended["reason"]
    assert ended["steps"] >= 4


def test_no_problem_is_both_trained_on_and_held_out(run: Run) -> None:
    train, heldout = (f"SELECT question FROM prompts WHERE split = '{split}'" for split in ("train", "heldout"))
    assert rows(run, f"{train} INTERSECT {heldout}") == []
    asked = "SELECT DISTINCT prompt_id FROM rollouts SEMI JOIN (FROM prompts WHERE split = 'heldout') USING (prompt_id)"
    assert rows(run, asked) == []


def test_status_counts_what_the_history_holds(pipeline: Pipeline, undisturbed: UndisturbedRun, run: Run) -> None:
    told = json.loads(pipeline.srpo("status", "tiny", "--json", "--store", undisturbed.store).stdout)
    assert [stage["discarded"] for stage in told["stages"]] == [0, 0]
    totals = rows(run, "SELECT count(*) AS rollouts, sum(completion_tokens)::BIGINT AS tokens FROM rollouts")[0]
    assert told["state"] == "finished"
    assert {"rollouts": told["rollouts"], "tokens": told["tokens"]} == totals
    assert [stage["stage"] for stage in told["stages"]] == [1, 2]
    assert {"generate", "update", "evaluate", "orchestration", "wall"} <= set(told["seconds"])
    overall = [row for row in told["evaluations"] if row["domain"] is None and row["class"] is None]
    assert {row["stage"] for row in overall} == {0, 1, 2}
    assert all(row["low"] <= row["pass_at_1"] <= row["high"] for row in told["evaluations"])
    assert set(overall[0]) == {"stage", "after", "domain", "class", "n", "pass_at_1", "low", "high"}


def test_the_run_ends_with_a_table_and_says_where_history_and_report_are(undisturbed: UndisturbedRun) -> None:
    for expected in ("after stage 2", "report.html", "history:", "rollouts", "tokens", "seconds:"):
        assert expected in undisturbed.output


def test_a_finished_run_is_left_as_it_is(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    before = snapshot(undisturbed.store)
    again = pipeline.srpo("run", TINY, "--store", undisturbed.store)
    assert again.returncode == 0
    assert "is done" in again.stdout
    assert snapshot(undisturbed.store) == before


def test_the_same_run_id_with_other_settings_is_refused_and_the_field_is_named(
    pipeline: Pipeline, undisturbed: UndisturbedRun
) -> None:
    refused = pipeline.srpo("run", TINY, "--store", undisturbed.store, "--set", "update.learning_rate=1e-3")
    assert refused.returncode == 2
    assert "update.learning_rate" in refused.stderr


def test_each_stage_of_each_epoch_was_a_flow_run_of_its_own(pipeline: Pipeline, run: Run) -> None:
    listed = pipeline.python(Path(__file__).parent / "flow_runs.py")
    flow_runs = Counter(name for name in listed.stdout.splitlines() if name.startswith("tiny"))
    for epoch in rows(run, "FROM epochs JOIN (SELECT DISTINCT stage, epoch FROM rollouts) USING (stage, epoch)"):
        for kind in ("rollout", "update", "resample"):
            assert flow_runs[f"tiny · stage {epoch['stage']} · epoch {epoch['epoch']} · {kind} Completed"] >= 1
    assert flow_runs["tiny · prepare Completed"] >= 1


def test_task_runs_carry_no_tags_which_would_each_ask_the_server_for_a_slot(pipeline: Pipeline, run: Run) -> None:
    assert run.history.has("transitions", stage=2, epoch=0)
    listed = pipeline.python(Path(__file__).parent / "flow_runs.py", "tags").stdout.splitlines()
    assert [line for line in listed if line.startswith("step ")]
    assert not [line for line in listed if line.startswith("step ") and ":" in line]


def test_sql_reads_and_never_writes(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    read = pipeline.srpo(
        "sql", "tiny", "SELECT count(*) AS n FROM epochs", "--format", "json", "--store", undisturbed.store
    )
    assert json.loads(read.stdout)[0]["n"] >= 4
    written = pipeline.srpo("sql", "tiny", "CREATE TABLE t AS SELECT 1", "--store", undisturbed.store)
    assert written.returncode == 1
    assert "Refused" in written.stderr


def snapshot(store: Path) -> dict[str, int]:
    remade = {"report.html", "history.duckdb"}
    files = [path for path in store.rglob("*") if path.is_file() and path.name not in remade]
    return {str(path): path.stat().st_mtime_ns for path in files}
