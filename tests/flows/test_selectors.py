"""Every selector in a short training, what a run keeps of its rule, and `srpo select`."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from pipeline_process import TINY, Pipeline, UndisturbedRun
from test_resume import assert_same_run, run_killed

from flows.commands.select import compare
from flows.runs import Run, WrongUseError, create_run, open_run
from flows.selection import tried_rule
from srpo_core.config import Settings
from srpo_core.settings.resampling import SELECTORS
from srpo_core.settings_file import SettingsError, load_settings
from storage.selectors import SelectorError, load_rule, selector_names

KILLS = [("in resampling", 1), ("between decisions and plan", 1)]
SHORT = ["problems.train=2", "stages.math.max_steps=3", "stages.math_and_code.max_steps=5", "evaluation.every_epochs=9"]
OWN = {  # settings under which two epochs already differ
    "history_readmit": ["resampling.readmit_after=1"],
    "zero_variance": ["resampling.readmit_after=1"],
    "greso": ["resampling.explore=0.3"],
    "thompson": ["resampling.decay=0.9"],
    "pools": ["resampling.weight_hard=0.3"],
}


def arguments(selector: str | Path, store: Path) -> list[str | Path]:
    changes = [f"resampling.selector={selector}", *OWN.get(str(selector), []), *SHORT]
    return ["run", TINY, "--store", store, *[part for change in changes for part in ("--set", change)]]


def test_the_settings_name_every_selector_that_there_is() -> None:
    assert sorted(SELECTORS) == selector_names()


@pytest.mark.slow
@pytest.mark.parametrize("selector", SELECTORS)
def test_a_run_by_each_selector_resumes_bit_for_bit_and_its_decisions_can_be_made_again(
    pipeline: Pipeline, selector: str, tmp_path: Path
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = pipeline.srpo(*arguments(selector, whole))
    assert done.returncode == 0, done.stderr
    run = open_run(whole, "tiny")
    epochs = run.history.sql("SELECT stage, epoch FROM visits GROUP BY ALL ORDER BY ALL").to_pylist()
    assert [sum(row["stage"] == stage for row in epochs) >= 2 for stage in (1, 2)] == [True, True]
    assert set(run.history.read("decisions")["selector"].to_pylist()) == {"prepare", "transition", selector}
    for row in epochs:
        for prompt in compare(run, selector, row["stage"], row["epoch"], []):
            assert prompt["decided"] == prompt["selected"]
            assert prompt["decided_reason"] == prompt["selected_reason"]
    run_killed(pipeline, killed, *KILLS, first=arguments(selector, killed))
    resumed = pipeline.srpo("resume", "tiny", "--store", killed)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_run(open_run(killed, "tiny"), run)


@pytest.mark.slow
def test_a_rule_of_the_users_own_trains_resumes_and_moves_without_its_file(pipeline: Pipeline, tmp_path: Path) -> None:
    own = tmp_path / "mine.sql"
    own.write_text(load_rule("pools").text.replace("$weight_easy", "0.25"))
    first, second = tmp_path / "first", tmp_path / "second"
    run_killed(pipeline, first, KILLS[0], first=arguments(own, first))
    rule = load_rule(str(own))
    own.unlink()
    shutil.move(first, second)
    resumed = pipeline.srpo("resume", "tiny", "--store", second)
    assert resumed.returncode == 0, resumed.stderr
    run = open_run(second, "tiny")
    assert run.rule == rule
    decided = run.history.sql("FROM decisions WHERE epoch > 0 AND bucket = 'easy' AND visits > 0").to_pylist()
    assert {row["selector"] for row in decided} == {f"mine.sql@{rule.sha256[:12]}"}
    assert {row["weight"] for row in decided} == {0.25}


def settings(**changes: object) -> Settings:
    return load_settings(TINY, [f"resampling.{name}={value}" for name, value in changes.items()])


def test_a_rule_that_cannot_decide_is_refused_before_the_run_begins(pipeline: Pipeline, tmp_path: Path) -> None:
    own = tmp_path / "mine.sql"
    own.write_text("SELECT prompt_id, false AS keep FROM candidates")
    refused = pipeline.srpo(*arguments(own, tmp_path))
    assert refused.returncode == 2
    assert "mine.sql@" in refused.stderr
    assert "pass_rate" in refused.stderr
    assert not (tmp_path / "tiny").exists()
    with pytest.raises(SettingsError, match=r"resampling\.selector: .*missing\.sql cannot be read"):
        tried_rule(settings(selector=tmp_path / "missing.sql"))


def test_the_rule_that_the_document_shows_is_accepted(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/selectors.md").read_text(encoding="utf-8")
    own = tmp_path / "kimi.sql"
    own.write_text(text.partition("```text\n")[2].partition("```")[0])
    assert "Kimi" in tried_rule(settings(selector=own)).text


def test_a_setting_that_the_selector_does_not_use_is_refused_by_name() -> None:
    with pytest.raises(SettingsError, match=r"resampling\.decay would change nothing.*uses resampling\.readmit_after"):
        tried_rule(settings(selector="zero_variance", decay=0.9, readmit_after=2))
    tried_rule(settings(selector="zero_variance", decay=0.5, readmit_after=2))  # its default, as settings.yaml tells it


def test_another_text_of_the_rule_is_refused_and_a_damaged_copy_named(tmp_path: Path) -> None:
    own = tmp_path / "mine.sql"
    own.write_text(load_rule("uniform").text)
    run = create_run(tmp_path, "r1", settings(selector=own))
    assert create_run(tmp_path, "r1", settings(selector=own)).rule == run.rule
    own.write_text(load_rule("history").text)
    with pytest.raises(WrongUseError, match=r"mine\.sql was changed since run r1 began.*srpo resume r1"):
        create_run(tmp_path, "r1", settings(selector=own))
    assert Run(tmp_path, "r1").rule.text == load_rule("uniform").text
    (kept,) = run.directory.glob("selector-*.sql")
    kept.write_text("SELECT 1")
    with pytest.raises(SelectorError, match="was changed since the run began"):
        _ = Run(tmp_path, "r1").rule


def test_select_shows_another_rule_beside_the_decision(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    command = ("select", undisturbed.store / "tiny", "--selector", "zero_variance", "--stage", "1", "--epoch", "0")
    before = sorted((path, path.stat().st_mtime_ns) for path in undisturbed.store.rglob("*"))
    table, rows = pipeline.srpo(*command), pipeline.srpo(*command, "--format", "csv")
    assert table.returncode == rows.returncode == 0, table.stderr + rows.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in undisturbed.store.rglob("*")) == before
    found = list(csv.DictReader(io.StringIO(rows.stdout)))
    run = open_run(undisturbed.store, "tiny")
    assert len(found) == run.history.read("decisions", stage=1, epoch=1).num_rows
    hard = sum(row["bucket"] == "hard" for row in found)
    alone = sum(row["decided"] == "true" and row["selected"] == "false" for row in found)
    assert hard == alone > 0  # what the paper's rule keeps and this one drops
    (line,) = [line for line in table.stdout.splitlines() if "kept by the decision alone" in line]
    assert line.split("│")[2].strip() == str(alone)


def test_select_takes_settings_and_refuses_what_is_not_there(pipeline: Pipeline, undisturbed: UndisturbedRun) -> None:
    def select(*rest: str) -> tuple[int, str]:
        done = pipeline.srpo("select", "tiny", "--store", undisturbed.store, *rest)
        return done.returncode, done.stdout + done.stderr

    at = ("--stage", "1", "--epoch", "0", "--format", "json")
    code, told = select(
        "--selector", "pools", *at, "--set", "resampling.weight_easy=1", "--set", "resampling.weight_hard=1"
    )
    assert code == 0
    assert all(row["selected"] for row in json.loads(told))
    assert select("--selector", "luck", *at)[0] == 2
    code, told = select("--selector", "uniform", "--stage", "1", "--epoch", "77")
    assert (code, "epoch 77 has no decisions" in told) == (1, True)
