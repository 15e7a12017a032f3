"""A run goes on under changed settings where its rows stay the same, and is refused by name where they would not."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from pipeline_process import TINY, UndisturbedRun

from flows.changes import change_run, publish_changes
from flows.request import RunRequest, requested_run
from flows.runs import Run, RunError, WrongUseError, create_run, open_run
from flows.settings_log import read_changes
from srpo_core.config import Settings
from srpo_core.settings.differences import differences, may_change
from srpo_core.settings.section import Section
from srpo_core.settings_file import SettingsError, load_settings, with_values
from srpo_core.settings_reference import sections_of

ME = "me@here"

# Another value for every setting: one without an entry here fails the test below, so that each is thought about.
OTHERS: dict[str, Any] = {
    "seed": 18,
    "keep_policies": 5,
    "keep_policies_every": 3,
    "policy.model": "smollm2-135m",
    "policy.revision": "main",
    "policy.device": "cuda",
    "policy.dtype": "bfloat16",
    "policy.threads": 2,
    "problems": {"source": "datasets", "train": [{"path": "a.jsonl"}], "heldout": [{"path": "b.jsonl"}]},
    "problems.train": 4,
    "problems.heldout": 3,
    "problems.template": "think_answer",
    "rollout.prompts_per_step": 4,
    "rollout.group_size": 3,
    "rollout.max_new_tokens": 47,
    "rollout.temperature": 0.9,
    "rollout.batch_rows": 5,
    "rollout.groups_per_shard": 2,
    "rollout.max_staleness": 1,
    "rollout.dynamic_sampling_rounds": 1,
    "engine.kind": "vllm",
    "engine.urls": ["http://10.0.0.5:8000"],
    "engine.python": "bin/python",
    "engine.port": 8001,
    "engine.arguments": ["--enforce-eager"],
    "engine.environment": {"VLLM_CPU_KVCACHE_SPACE": "2"},
    "engine.start_seconds": 5,
    "engine.sleep": True,
    "engine.requests_per_server": 2,
    "engine.request_seconds": 7,
    "engine.patience_seconds": 8,
    "engine.tolerance": 1.5,
    "rewards.accuracy": 2.0,
    "rewards.format": 0.2,
    "rewards.code_in_math": 0.2,
    "rewards.mixed_language": 0.2,
    "rewards.overlong": 0.1,
    "rewards.overlong_buffer": 12,
    "rewards.check_thought": False,
    "verifiers.workers": 1,
    "verifiers.math_seconds": 6,
    "verifiers.math_memory_mib": 2048,
    "verifiers.code_wall_seconds": 21,
    "verifiers.code_cpu_seconds": 9,
    "verifiers.code_memory_mib": 513,
    "verifiers.code_output_kib": 1,
    "verifiers.code_processes": 9,
    "verifiers.unsafe_no_isolation": True,
    "update.learning_rate": 1e-6,
    "update.warmup_steps": 1,
    "update.decay_steps": 9,
    "update.final_learning_rate_share": 0.2,
    "update.beta1": 0.8,
    "update.beta2": 0.99,
    "update.weight_decay": 0.1,
    "update.max_grad_norm": 2.0,
    "update.advantage": "group_mean",
    "update.mask_truncated": False,
    "update.loss": "cispo",
    "update.clip_low": 0.1,
    "update.clip_high": 0.3,
    "update.dual_clip": 3.0,
    "update.loss_mean": "sequence",
    "update.entropy_coefficient": 0.01,
    "update.kl.coefficient": 0.1,
    "update.kl.estimator": "k1",
    "update.kl.reference": "base",
    "update.old_logprobs": "recomputed",
    "update.importance_sampling": "off",
    "update.importance_sampling_cap": 3.0,
    "update.minibatches": 2,
    "update.passes": 2,
    "update.micro_batch_tokens": 512,
    "update.precision": "bfloat16",
    "update.gradient_checkpointing": True,
    "update.lora.rank": 4,
    "update.lora.alpha": 8.0,
    "update.lora.targets": ["q_proj"],
    "update.parallel.processes": 2,
    "update.parallel.nodes": 2,
    "update.parallel.endpoint": "host:29500",
    "update.not_finite_limit": 4,
    "resampling.selector": "uniform",
    "resampling.readmit_after": 4,
    "resampling.sure_rollouts": 33,
    "resampling.explore": 0.6,
    "resampling.explore_step": 0.1,
    "resampling.target_easy": 0.1,
    "resampling.target_hard": 0.1,
    "resampling.target_pass_rate": 0.6,
    "resampling.decay": 0.6,
    "resampling.keep_share": 0.6,
    "resampling.weight_easy": 0.2,
    "resampling.weight_mixed": 0.9,
    "resampling.weight_hard": 0.6,
    "resampling.solved_pass_rate": 0.9,
    "history.url": "s3://bucket/prefix",
    "stages.math.max_steps": 9,
    "stages.math_and_code.max_steps": 9,
    "stages.transition.window": 2,
    "stages.transition.min_gain": 0.0,
    "evaluation.samples": 3,
    "evaluation.every_epochs": 4,
    "guards.min_free_gb": 0.001,
    "guards.max_tokens": 10**9,
    "guards.max_hours": 9.0,
}
# What another value needs beside it, so that the settings hold together.
WITH: dict[str, dict[str, Any]] = {
    "policy.dtype": {"policy.device": "cuda"},
    "rewards.overlong": {"rewards.overlong_buffer": 12},
    "update.loss": {"update.clip_low": 1.0, "update.clip_high": 4.0},
    "update.kl.reference": {"update.kl.coefficient": 0.1},
    "update.parallel.nodes": {"update.parallel.endpoint": "host:29500"},
}


def places(section: type[Section] = Settings, prefix: str = "") -> list[str]:
    """Every setting that can have a value of its own, in every kind of `problems` that a tiny run can have."""
    found = []
    for name, field in section.model_fields.items():
        inner = [each for tag, each in sections_of(field).items() if tag in ("", "lab")]
        if not inner:
            found.append(prefix + name)
        for each in inner:
            found += [place for place in places(each, f"{prefix}{name}.") if place != "problems.source"]
    return found


def test_every_setting_has_another_value_here() -> None:
    assert sorted(set(OTHERS) - {"problems"}) == sorted(places())


# A setting that is none of these decides about rows: a mark that is set by mistake turns the test below red.
MAY_CHANGE = """
    keep_policies keep_policies_every policy.device policy.threads rollout.batch_rows engine.urls engine.python
    engine.port engine.arguments engine.environment engine.start_seconds engine.sleep engine.requests_per_server
    engine.request_seconds engine.patience_seconds engine.tolerance verifiers.workers update.micro_batch_tokens
    update.gradient_checkpointing update.parallel.processes update.parallel.nodes update.parallel.endpoint
    update.not_finite_limit stages.math.max_steps stages.math_and_code.max_steps stages.transition.window
    stages.transition.min_gain evaluation.every_epochs guards.min_free_gb guards.max_tokens guards.max_hours
"""


def marked(section: type[Section] = Settings, prefix: str = "") -> list[str]:
    """Every setting that says it may change, in every kind of section."""
    found = []
    for name, field in section.model_fields.items():
        found += [prefix + name] if may_change(field.metadata) else []
        for inner in sections_of(field).values():
            found += marked(inner, f"{prefix}{name}.")
    return found


def test_no_other_setting_may_change_than_is_known_here() -> None:
    assert sorted(marked()) == sorted(MAY_CHANGE.split())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Stores with a run that was begun and no more, by what samples in it."""
    stores = {
        "plain": {},
        "served": {"engine.kind": "vllm"},
        "asleep": {"engine.kind": "vllm", "policy.device": "cuda"},
    }
    for name, values in stores.items():
        create_run(store := tmp_path_factory.mktemp(name), "r", with_values(load_settings(TINY), values))
        stores[name] = {"store": store}
    return {name: values["store"] for name, values in stores.items()}


@pytest.mark.parametrize("place", OTHERS)
def test_every_setting_is_either_changed_and_recorded_or_refused_by_name(
    begun: dict[str, Path], tmp_path: Path, place: str
) -> None:
    of_server = place.startswith("engine.") and place != "engine.kind"
    base = begun["asleep" if place == "engine.sleep" else "served" if of_server else "plain"]
    run = open_run(Path(shutil.copytree(base, tmp_path / "store")), "r")
    values = {**WITH.get(place, {}), place: OTHERS[place]}
    asked, began = with_values(run.settings, values), run.settings
    (found,) = [each for each in differences(began, asked) if each.place == place]
    told: list[str] = []
    changes = [f"{name}={json.dumps(value)}" for name, value in values.items()]
    if found.may is None:
        with pytest.raises(WrongUseError, match=rf"\n  {place}: .* then, .* now: "):
            change_run(run, changes, ME, told.append)
        assert open_run(run.store, "r").settings == began
        assert run.history.read("changes").num_rows == 0
        return
    assert change_run(run, changes, ME, told.append).settings == asked
    assert open_run(run.store, "r").settings == asked
    assert place in run.history.read("changes")["setting"].to_pylist()
    assert any(place in line for line in told)


@pytest.fixture
def half(undisturbed: UndisturbedRun, tmp_path: Path) -> Run:
    """A run that has ended stage 1 and not begun stage 2."""
    store = Path(shutil.copytree(undisturbed.store, tmp_path / "half"))
    for folder in list((store / "tiny").glob("**/stage=2")):
        shutil.rmtree(folder)
    return open_run(store, "tiny")


def refused(run: Run, *changes: str) -> str:
    with pytest.raises(WrongUseError) as caught:
        change_run(run, changes, ME, print)
    return str(caught.value)


def test_what_decides_about_the_course_may_change_for_what_is_ahead_alone(half: Run) -> None:
    ended = "stage 1 would not have ended after epoch 1, as it did: "
    assert f"stages.math.max_steps: 4 then, 7 now: {ended}6 of at most 7 steps" in refused(
        half, "stages.math.max_steps=7", "stages.math_and_code.max_steps=9", "guards.max_hours=1"
    )
    assert "would not have gone on after epoch 0" in refused(half, "stages.math.max_steps=3")
    assert "the math accuracy is flat" in refused(half, "stages.transition.window=2", "stages.transition.min_gain=10")
    assert not read_changes(half.directory)
    again = change_run(half, ["stages.math_and_code.max_steps=9", "stages.transition.window=9"], ME, print)
    assert (again.settings.stages.math_and_code.max_steps, again.settings.stages.transition.window) == (9, 9)
    (rows,) = [row for row in half.history.read("transitions").to_pylist() if row["decision"] == "continue"]
    end = half.directory / "tables/transitions/run=tiny/stage=1" / f"epoch={rows['epoch'] + 1}"
    shutil.rmtree(end)
    assert change_run(again, ["stages.math.max_steps=7"], ME, print).settings.stages.math.max_steps == 7


def test_evaluations_may_become_rarer_only_where_none_is_there_that_would_not_be(half: Run) -> None:
    rows = half.history.read("evaluations", stage=1, epoch=2, name="rows").to_pylist()
    half.history.publish("evaluations", [row | {"after": 1, "epoch": 1} for row in rows], stage=1, epoch=1)
    assert "the evaluation after epoch 0 of stage 1, which is there, would not be" in refused(
        half, "evaluation.every_epochs=3"
    )
    assert change_run(half, ["evaluation.every_epochs=1"], ME, print).settings.evaluation.every_epochs == 1


def test_changes_are_recorded_with_who_when_and_where_and_a_kill_loses_no_row(half: Run) -> None:
    first = change_run(half, ["guards.max_hours=5", "verifiers.workers=3"], ME, print)
    change_run(first, ["guards.max_hours=null"], "another", print)
    one, two = read_changes(half.directory)
    assert (one.by, one.stage, one.epoch, one.policy_version, two.by) == (ME, 1, 2, 6, "another")
    assert datetime.fromisoformat(one.at) <= datetime.fromisoformat(two.at) <= datetime.now(UTC)
    query = "SELECT change, policy_version, setting, before, after FROM changes ORDER BY ALL"
    rows = [tuple(row.values()) for row in half.history.sql(query).to_pylist()]
    workers = (1, 6, "verifiers.workers", "0", "3")
    assert rows == [(1, 6, "guards.max_hours", "null", "5.0"), workers, (2, 6, "guards.max_hours", "5.0", "null")]
    for file in half.directory.glob("tables/changes/**/change-*.parquet"):
        file.unlink()
    publish_changes(half)
    publish_changes(half)
    assert [tuple(row.values()) for row in half.history.sql(query).to_pylist()] == rows


def test_a_run_that_a_process_works_on_is_not_changed(half: Run) -> None:
    with half.locked(), pytest.raises(RunError, match="held by another process"):
        change_run(half, ["guards.max_hours=5"], ME, print)
    assert not read_changes(half.directory)


def test_a_change_that_contradicts_other_settings_is_refused_as_such(half: Run) -> None:
    for wrong in ("update.minibatches=99", "guards.max_hours=-1", "guards.max_days=1", "keep_policies=0"):
        with pytest.raises(SettingsError):
            change_run(half, [wrong], ME, print)


def test_the_form_changes_a_run_that_is_there_once_for_each_request(half: Run) -> None:
    def asked(by: str, *changes: str, again: bool = False, settings: str | None = None) -> float | None:
        request = RunRequest(name="tiny", store=str(half.store), settings=settings, changes=list(changes))
        return requested_run(request, by, again=again).settings.guards.max_hours

    assert asked("flow run 1", "guards.max_hours=1") == 1
    assert asked("flow run 2", "guards.max_hours=2", again=True) == 2  # its first attempt died before it changed it
    assert asked("flow run 1", "guards.max_hours=1", again=True) == 2
    assert asked("flow run 3", "guards.max_hours=3", settings=str(TINY)) == 3
    assert asked("flow run 3", "guards.max_hours=4", settings=str(TINY), again=True) == 3
    with pytest.raises(WrongUseError, match=r"seed: 17 then, 18 now"):
        asked("flow run 4", "seed=18", settings=str(TINY))
    with pytest.raises(WrongUseError, match=r"seed: 17 then, 18 now"):
        asked("flow run 5", "seed=18")
