"""The report and the picture of hand-made histories, read back as a browser would."""

import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from report_page import Page

from flows import charts, report
from flows.changes import change_run
from flows.report import QUERIES, write_picture, write_report
from flows.runs import Run, RunError, create_run, open_run
from srpo_core.config import Settings
from storage.tables import SHARDS

SECTIONS = ("result", "learning", "prompts", "completions", "time", "decisions", "flips", "settings")
ATTACK = "<think>1</think><script>alert('&')</script>"
PROMPTS = {"a": ("math", 1), "b": ("math", 8), "c": ("math", 8), "d": ("code", 8)}
Figures = dict[tuple[str | None, int | None], float]  # pass@1 by domain and class
RIGHT, WRONG, MIXED = (1.0, 1.0), (0.0, 0.0), (1.0, 0.0)

UNPENALISED = {"tests_passed": None, "format": 1.0, "code_in_math": 0.0, "mixed_language": 0.0, "overlong": 0.0}


def shard(groups: dict[str, tuple[float, ...]], completions: dict[str, str]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for prompt, accuracies in groups.items():
        domain, difficulty = PROMPTS[prompt]
        for sample, accuracy in enumerate(accuracies):
            given = {"position": len(rows), "prompt_id": prompt, "domain": domain, "difficulty": difficulty}
            length = {"prompt_tokens": 1, "completion_tokens": 2, "finish_reason": "length" if sample else "stop"}
            grade = {"verdict": "graded", "accuracy": accuracy, **UNPENALISED, "reward": accuracy + 0.1}
            texts = {"prompt": f"{prompt}?", "completion": completions.get(prompt, f"{prompt}{sample}")}
            tokens = {"prompt_token_ids": [1], "token_ids": [2, 3], "logprobs": [-0.5, -0.5]}
            kept = {"sample": sample, "seed": sample, "policy_version": 0, "used": True}
            rows.append(given | kept | length | grade | texts | tokens)
    return pa.Table.from_pylist(rows, schema=pa.schema([f for f in SHARDS.schema if f.name not in SHARDS.key]))


def decide(run: Run, stage: int, epoch: int, rows: dict[str, tuple[bool, str, str]], selector: str) -> None:
    made = [
        {"prompt_id": prompt, "domain": PROMPTS[prompt][0], "difficulty": PROMPTS[prompt][1], "keep": keep}
        | {"bucket": bucket, "reason": reason, "graded": 2, "correct": 0, "selector": selector}
        | {"pass_rate": 1.0 if bucket == "easy" else 0.0}
        | {"step": 0 if keep else None, "position": 0 if keep else None, "weight": None, "visits": 1}
        | {"last_stage": 1, "last_epoch": 0}
        for prompt, (keep, bucket, reason) in rows.items()
    ]
    run.history.publish("decisions", made, stage=stage, epoch=epoch)


def plan(run: Run, stage: int, epoch: int, prompts: int, first_version: int) -> None:
    planned = {"prompts": prompts, "steps": 1, "first_version": first_version, "selector": "history"}
    run.history.publish("epochs", [planned], stage=stage, epoch=epoch)


def train(run: Run, stage: int, epoch: int, version: int, groups: dict[str, tuple[float, ...]], **told: str) -> None:
    run.history.write_shard(stage, epoch, 0, 0, shard(groups, told))
    run.history.commit_step(stage, epoch, 0, 1)
    values = {"entropy": 0.25, "grad_norm": float("nan"), "clip_ratio/region_mean": 0.125, "timing_s/update": 3.0}
    rows = [
        {"step": 0, "policy_version": version, "kind": "update", "name": name, "value": value}
        for name, value in values.items()
    ]
    rows.append({"step": 0, "policy_version": 0, "kind": "epoch", "name": "timing_s/wall", "value": 4.0})
    run.history.publish("metrics", rows, stage=stage, epoch=epoch)


def move(run: Run, stage: int, epoch: int, decision: str, reason: str, gain: float | None = None) -> None:
    row = {"decision": decision, "reason": reason, "gain": gain, "slope": None if gain is None else gain / 4}
    run.history.publish(
        "transitions", [row | {"window": 4, "steps": epoch + 1, "prompts": 4}], stage=stage, epoch=epoch
    )


def evaluate(run: Run, stage: int, after: int, version: int, figures: Figures) -> None:
    rows = [
        {"suite": "heldout", "after": after, "policy_version": version, "domain": domain, "difficulty": difficulty}
        | {"n": 40, "samples": 2, "pass_at_k": value, "ungraded": 0.0}
        | {"pass_at_1": value, "low": max(0.0, value - 0.0625), "high": min(1.0, value + 0.0625)}
        | {"mean_tokens": 2.0, "truncated": 0.0}
        for (domain, difficulty), value in figures.items()
    ]
    run.history.publish("evaluations", rows, stage=stage, epoch=after)


def cells(base: float) -> Figures:
    """Figures of an evaluation that all differ: math below code, class 8 below class 1."""
    steps: dict[str | None, float] = {None: 0.0, "math": -0.01, "code": 0.02}
    levels: dict[int | None, float] = {None: 0.0, 1: 0.1, 8: -0.1}
    return {(d, level): base + steps[d] + levels[level] for d in steps for level in levels}


def prepare(run: Run) -> None:
    problem = {"answer": "4", "source": "test", "split": "train"}
    rows = [
        {"prompt_id": prompt, "domain": domain, "difficulty": level, "question": f"what is {prompt}?", **problem}
        for prompt, (domain, level) in PROMPTS.items()
    ]
    run.history.publish("prompts", rows, stage=0, epoch=0)
    decide(run, 1, 0, dict.fromkeys("abc", (True, "new", "stage 1 begins with every math prompt")), "prepare")
    plan(run, 1, 0, 3, 0)


def fill(run: Run) -> None:
    """Two epochs of stage 1, in which a is solved and dropped and b goes from hard to mixed; one epoch of stage 2."""
    prepare(run)
    evaluate(run, 0, 0, 0, cells(0.3))
    train(run, 1, 0, 0, {"a": RIGHT, "b": WRONG, "c": WRONG}, b="<think>12" + "x" * 2000)
    easy, hard, mixed = (
        (False, "easy", "all 2 correct: too easy"),
        (True, "hard", "none of 2"),
        (True, "mixed", "1 of 2"),
    )
    decide(run, 1, 1, {"a": easy, "b": hard, "c": hard}, "history")
    plan(run, 1, 1, 2, 1)
    move(run, 1, 0, "continue", "still rising", 0.25)
    evaluate(run, 1, 1, 1, cells(0.5))
    train(run, 1, 1, 1, {"b": MIXED, "c": WRONG}, b=ATTACK)
    decide(run, 1, 2, {"b": mixed, "c": hard}, "history")
    move(run, 1, 1, "switch", "the math accuracy is flat", 0.001)
    evaluate(run, 1, 2, 2, cells(0.6))
    plan(run, 2, 0, 3, 2)
    train(run, 2, 0, 2, {"b": MIXED, "c": WRONG, "d": MIXED})
    move(run, 2, 0, "finish", "the step limit is reached")
    evaluate(run, 2, 1, 3, cells(0.75))
    for stage, after, accuracy, completion in ((0, 0, 0.0, "held wrong"), (2, 1, 1.0, "held right")):
        held = {"prompt_id": "d", "domain": "code", "difficulty": 8, "sample": 0, "seed": 1, "policy_version": 0}
        ended = {"completion": completion, "completion_tokens": 2, "finish_reason": "stop", "verdict": "graded"}
        grade = {"accuracy": accuracy, **UNPENALISED, "reward": accuracy}
        run.history.publish(
            "evaluation_rollouts", [held | ended | grade | {"suite": "heldout"}], stage=stage, epoch=after
        )


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path, "r1", Settings())


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = create_run(tmp_path_factory.mktemp("store"), "r1", Settings())
    fill(made)
    return made


@pytest.fixture(scope="module")
def page(filled: Run) -> Page:
    return Page(write_report(filled))


def test_headline_tells_first_and_last_figures_with_intervals(page: Page) -> None:
    told = page.text("result")
    assert "finished" in [data for _, tag, data in page.pieces if tag == "span"]
    for first, last in (("0.300", "0.750"), ("0.290", "0.740"), ("0.320", "0.770")):
        assert f"{first} → {last}" in told
    assert "from 0.237–0.362 to 0.688–0.812; the intervals lie apart" in told


def test_table_has_every_domain_and_class_in_every_phase(page: Page) -> None:
    head, *rows = page.tables["evaluations"]
    assert head == ["domain", "class", "problems", "before training", "after stage 1", "after stage 2", "change"]
    assert [row[:2] for row in rows] == [[d, c] for d in ("all", "math", "code") for c in ("all", "1", "8")]
    code_8 = rows[-1]
    assert code_8[2:] == ["40", "0.2200.158–0.282", "0.5200.458–0.583", "0.6700.608–0.733", "+0.450"]


def test_work_of_each_stage_is_counted(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables["work"]}
    assert rows["stage 1: math"] == ["2", "2", "10", "20", "the math accuracy is flat"]
    assert rows["stage 2: math and code"] == ["1", "1", "6", "12", "the step limit is reached"]
    assert rows["together"][:4] == ["3", "3", "16", "32"]


def test_learning_curves_hold_every_evaluation_and_name_the_stages(page: Page) -> None:
    told = page.text("chart-learning", "title")
    assert told.count("updates:") == 4 * 3
    assert "math, after 2 updates: 0.590, interval 0.527 to 0.652, 40 problems" in told
    assert {"stage 1: math", "stage 2: math and code"} <= {
        data for ids, _, data in page.pieces if "chart-learning" in ids
    }
    assert "code, class 8, after 3 updates: 0.670" in page.text("chart-classes", "title")
    assert "before training, class 8, after 0 updates: 0.190" in page.text("chart-phases", "title")


def test_training_accuracy_counts_prompts_left_out_as_at_their_last_visit(page: Page) -> None:
    told = page.text("chart-training", "title")
    assert "step at 1 updates · math: 0.2" in told  # 1 of 4
    assert "step at 1 updates · all prompts, those left out as at their last visit: 0.5" in told  # (2 * 0.25 + 1) / 3
    assert "step at 2 updates · code: 0.5" in told


def test_buckets_of_each_epoch_are_shown_as_shares_and_counts(page: Page) -> None:
    told = page.text("chart-buckets", "title")
    assert "stage 1, epoch 0, easy: always right: 33%" in told
    assert "stage 1, epoch 0, hard: never right: 67%" in told
    assert "stage 1, epoch 1, mixed: right and wrong: 50%" in told
    assert "stage 1, epoch 1, dropped before: 1" in told
    assert "step at 0 updates · all alike: nothing to learn from: 100%" in page.text("chart-variance", "title")
    assert "step at 0 updates · of them all right: 33%" in page.text("chart-variance", "title")


def test_buckets_without_dropped_prompts_have_a_finite_picture() -> None:
    shares = {"easy": 0.5, "mixed": 0.5, "hard": 0.0, "other": 0.0}
    epoch = {"stage": 1, "epoch": 0, "planned": 4, "visited": 4, "began": 4, "kept": 2, **shares}
    assert charts.svg(charts.bucket_counts([epoch], width=300, height=200)).count("Infinity") == 0


def test_lengths_and_update_figures_are_drawn_but_for_what_is_not_finite(page: Page) -> None:
    told = page.text("chart-updates", "title")
    assert "entropy, nats: 0.25" in told
    assert "clip ratio: 0.125" in told
    assert "gradient norm" not in page.text("chart-updates")
    assert "95th percentile: 2" in page.text("chart-lengths", "title")
    assert "share cut off: 50%" in page.text("chart-lengths", "title")


def test_time_by_kind_of_work_is_told_with_its_share(page: Page) -> None:
    told = page.text("chart-seconds")
    assert "9.0 s · 75%" in told
    assert "3.0 s · 25%" in told  # what the wall time holds beside the updates


def test_decisions_tell_why_the_stages_ended_and_what_was_kept(page: Page) -> None:
    moves = page.tables["transitions"][1:]
    assert moves[1] == ["1", "1", "2", "switch", "the math accuracy is flat", "+0.001", "+0.00025", "4"]
    buckets = page.tables["buckets"][1:]
    assert buckets[1] == ["1", "1", "history", "3", "0", "1", "0", "2", "0", "0", "2"]
    assert ["1", "1", "dropped", "easy", "all 2 correct: too easy", "1"] in page.tables["reasons"]
    assert ["what is a?", "1", "stage 1, epoch 1", "dropped", "easy", "all 2 correct: too easy"] in page.tables[
        "sample"
    ]


def test_flips_show_both_completions_and_what_they_begin_with(page: Page) -> None:
    told = page.text("flips")
    assert "held-out problems (1 of 1)" in told.lower()
    assert "base policy: 0 of 1 right" in told
    assert "stage 2, after 1 epoch: 1 of 1 right" in told
    shared = [
        data for ids, tag, data in page.pieces if "flips" in ids and tag == "span" and data in ("held ", "<think>1")
    ]
    assert sorted(shared) == ["<think>1"] * 2 + ["held "] * 2


def test_text_of_the_model_is_never_markup(page: Page) -> None:
    assert all(tag != "script" for tag, _ in page.tags)
    assert "</think><script>alert('&')</script>" in page.text("flips", "pre")


def test_long_completion_is_cut_and_says_so(page: Page) -> None:
    length = len("<think>12") + 2000
    assert f"{length - report.LETTERS} more letters" in page.text("flips", "span")
    assert "x" * (report.LETTERS + 1) not in page.text("flips", "pre")


def test_page_loads_nothing_from_anywhere(filled: Run, page: Page) -> None:
    loading = {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}
    links = {value for _, attributes in page.tags for name, value in attributes.items() if name in loading}
    assert links == {f"#{name}" for name in SECTIONS}
    text = filled.report.read_text(encoding="utf-8")
    assert "@import" not in text
    assert "url(http" not in text
    assert "Content-Security-Policy" in {attributes.get("http-equiv") for _, attributes in page.tags}


def test_ids_are_unique_and_references_lead_to_them(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {v[5:-1] for _, a in page.tags for v in a.values() if v and v.startswith("url(#")}
    assert used <= set(ids)


def test_settings_and_queries_lead_on(filled: Run, page: Page) -> None:
    told = page.text("settings", "pre")
    assert "prompts_per_step: 32" in told
    assert str(filled.directory) in page.text("settings")
    for query in QUERIES.values():
        assert f'srpo sql r1 "{query}" --store {filled.store}' in told
        assert filled.history.sql(query).num_rows > 0
        assert not set(query) & set('"$`\\!')  # a shell leaves it as it is


def test_settings_that_were_changed_on_the_way_are_told(run: Run, page: Page) -> None:
    assert "changes" not in page.tables
    change_run(run, ["guards.max_hours=8"], "<me>@here", lambda _: None)
    row = Page(write_report(open_run(run.store, run.name))).tables["changes"][1]
    assert row[1:] == ["<me>@here", "0", "0", "0", "guards.max_hours", "null", "8.0"]


def test_report_is_small_and_leaves_nothing_behind(filled: Run, page: Page) -> None:
    assert filled.report.stat().st_size < 3_000_000
    assert not list(filled.history.tmp_root.iterdir())


def test_report_of_an_empty_run_says_what_is_missing(run: Run) -> None:
    page = Page(write_report(run))
    for section in SECTIONS[:-1]:
        assert any("missing" in classes for classes in page.classes_within(section)), section
    assert "prompts_per_step" in page.text("settings")
    assert all(tag != "svg" for tag, _ in page.tags)


def test_report_grows_with_an_unfinished_run(run: Run) -> None:
    evaluate(run, 0, 0, 0, cells(0.3))
    page = Page(write_report(run))
    assert "Only the base policy" in page.text("result")
    assert "→" not in page.text("result")
    assert page.tables["evaluations"][1] == ["all", "all", "40", "0.3000.237–0.362", "–"]
    assert "the run has not been prepared" in page.text("result")

    prepare(run)
    page = Page(write_report(run))
    assert page.tables["work"][1] == ["stage 1: math", "0", "0", "0", "0", "not ended"]
    assert "No prompt has been sampled yet." in page.text("prompts")

    train(run, 1, 0, 0, {"a": RIGHT, "b": WRONG})
    page = Page(write_report(run))
    assert "Epoch 0 of stage 1 has sampled 2 of its 3 prompts so far." in page.text("prompts")
    assert "No epoch has been finished yet." in page.text("decisions")


def test_evaluation_within_a_stage_is_not_called_its_end(run: Run) -> None:
    evaluate(run, 0, 0, 0, cells(0.3))
    evaluate(run, 1, 1, 1, cells(0.5))
    move(run, 1, 0, "continue", "still rising")
    assert list(report._Figures(run).phases) == ["before training", "stage 1 so far"]
    move(run, 1, 1, "switch", "flat")
    assert list(report._Figures(run).phases) == ["before training", "after stage 1"]


def test_many_steps_are_averaged(filled: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "POINTS", 2)
    figures = report._Figures(filled)
    assert figures.every == 2
    assert [(step["stage"], step["updates"], step["steps"]) for step in figures.steps] == [(1, 0, 2), (2, 2, 1)]
    assert figures.steps[0]["math"] == pytest.approx((1 / 3 + 1 / 4) / 2)


def test_picture_is_one_wide_image_of_the_same_charts(filled: Run, tmp_path: Path) -> None:
    report._main([str(filled.directory), str(tmp_path / "run.png"), str(tmp_path / "run.svg")])
    drawing = Page(tmp_path / "run.svg")
    width, height = (int(float(drawing.tags[0][1][name] or 0)) for name in ("width", "height"))
    image = (tmp_path / "run.png").read_bytes()
    assert image[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", image[16:24]) == (report.PIXELS * width, report.PIXELS * height)
    assert width > 900
    assert width > 2.4 * height
    told = {data for _, tag, data in drawing.pieces if tag == "text"}
    assert {"Held-out pass@1 over training", "stage 2: math and code", "hard: never right", "after stage 2"} <= told


def test_picture_needs_figures_and_a_known_format(filled: Run, run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to draw yet"):
        write_picture(run, tmp_path / "run.png")
    with pytest.raises(RunError, match=r"\.png or an \.svg"):
        write_picture(filled, tmp_path / "run.gif")
    assert not list(tmp_path.glob("run.*"))
