"""Runs that a person starts, schedules, retries and reads in the Prefect UI, with a browser of its own kind."""

import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from pipeline_process import HERE
from playwright.sync_api import Browser, Page, expect, sync_playwright
from prefect_pages import PAGE_SECONDS, FlowRunPage, RunForm, open_deployment
from served_runs import PATIENCE_SECONDS, Served, eventually, serve

from flows.request import CONFIGS, RunRequest
from flows.runs import open_run
from srpo_core.problems.lab.world import lab_problems

pytestmark = pytest.mark.deployed
BROWSER = "chromium-headless-shell"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which(BROWSER)
    if path is None:
        pytest.skip(f"NOT TESTED in a browser: the Prefect UI's form, buttons and tables want Debian's {BROWSER}")
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def served(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("served")) as served:
        yield served


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch of two steps: the lab's math as a file, without code, after which a run ends."""
    directory = tmp_path_factory.mktemp("math")
    values = yaml.safe_load((HERE / "brief.yaml").read_text())
    values["problems"] = {"source": "datasets", "template": "plain"}
    for split, count in (("train", 4), ("heldout", 2)):
        problems = lab_problems(split, {("math", difficulty): count for difficulty in range(1, 5)}, seed=0)
        rows = [{"question": p.question, "answer": p.answer, "difficulty": p.difficulty} for p in problems]
        (file := directory / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        values["problems"][split] = [{"path": str(file), "domain": "math"}]
    (path := directory / "math.yaml").write_text(yaml.safe_dump(values))
    return path


@pytest.fixture
def page(browser: Browser, served: Served, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A page of the UI's; when the test fails, a picture of it as it was then."""
    url = served.pipeline.environment["PREFECT_API_URL"].removesuffix("/api")
    page = browser.new_page(base_url=url, viewport={"width": 1300, "height": 1500})
    page.set_default_timeout(1000 * PAGE_SECONDS)
    expect.set_options(timeout=1000 * PAGE_SECONDS)
    failed = request.session.testsfailed
    yield page
    if request.session.testsfailed > failed:
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        print(f"the page as it was then: {tmp_path / 'page.png'}")
    page.close()


def test_the_form_explains_every_field_and_says_what_is_wrong_with_which(served: Served, page: Page) -> None:
    form = RunForm.opened(page)
    for field in RunRequest.model_fields.values():
        form.told(str(field.title))
        form.told(str(field.description))
    expect(form.line("store")).to_have_value(str(served.store))
    assert form.settings_by_name() == sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    form.line("name").fill("not a name")
    form.line("store").fill("")
    form.choose_settings("relative.yaml")
    form.add_change("no change")
    form.submit()
    for wrong in ("'not a name' does not match", "'store' is a required", "'relative.yaml' is not", "'no change' does"):
        form.told(wrong)
    assert not served.client.read_flow_runs()


def test_a_run_of_the_form_whose_killed_stage_is_retried_by_its_button_completes_and_shows_its_tables(
    served: Served, page: Page, settings: Path
) -> None:
    form = RunForm.opened(page)
    form.line("name").fill("pressed")
    form.choose_settings(settings)
    form.add_change("seed=7")
    form.ask()
    stage = served.until("pressed · stage 1 · epoch 0 · rollout", "RUNNING")
    eventually(lambda: list(served.store.glob("pressed/data/**/*.parquet")))  # in the middle of its work
    served.kill(stage)
    served.until("pressed", "FAILED")

    killed = FlowRunPage.opened(page, stage.name)
    killed.shows("Crashed", run_count=1)
    killed.retry()
    killed.shows("Completed", run_count=2, patience=PATIENCE_SECONDS)
    page.get_by_role("link", name="Parent Run").click()
    parent_page = FlowRunPage(page)
    parent_page.shows("Completed", run_count=2, patience=PATIENCE_SECONDS)
    for series in ("pressed-steps", "pressed-epoch", "pressed-summary", "pressed-report", "pressed-store"):
        parent_page.has_artifact(series)

    again, parent = served.flow_run(stage.name), served.flow_run("pressed")
    assert again is not None
    assert parent is not None
    assert (again.id, again.run_count, parent.run_count) == (stage.id, 2, 2)
    run = open_run(served.store, "pressed")
    assert run.report.is_file()
    assert run.settings.seed == 7
    evaluated = FlowRunPage.opened(page, "pressed · stage 1 · after 1 epochs · evaluate").table("pressed-evaluation")
    measured = run.history.read("evaluations", stage=1, epoch=1, name="rows").to_pylist()
    assert evaluated
    for shown, row in zip(evaluated, measured, strict=False):  # the page shows the first ten
        assert_shows(shown, row, "domain", "difficulty", "n", "pass_at_1", "low", "high")
    resampled = FlowRunPage.opened(page, "pressed · stage 1 · epoch 0 · resample").table("pressed-resampling")
    decided = run.history.sql("""
        SELECT bucket, keep, count(*) AS prompts FROM decisions WHERE stage = 1 AND epoch = 1 GROUP BY ALL ORDER BY ALL
    """)
    for shown, row in zip(resampled, decided.to_pylist(), strict=True):
        assert_shows(shown, row, "bucket", "keep", "prompts")


def assert_shows(shown: dict[str, str], row: dict[str, Any], *columns: str) -> None:
    """The row of a table in the UI has the figures of this row, in these columns."""
    for column in columns:
        text, value = shown[column], row[column]
        if isinstance(value, bool) or not isinstance(value, int | float):
            assert text.lower() == ("" if value is None else str(value).lower()), column
        else:
            assert float(text) == pytest.approx(value, abs=5e-4), column


def test_a_run_may_be_put_off_to_another_day(served: Served, page: Page) -> None:
    form = RunForm.opened(page)
    form.line("name").fill("later")
    page.get_by_role("textbox", name="Run Name").fill("put off")
    day = date.today() + timedelta(days=2)  # the browser's day is this machine's
    form.start_at(day)
    form.ask()
    page.get_by_role("tab", name="Upcoming").click()
    page.get_by_role("tabpanel", name="Upcoming").get_by_role("link", name="put off").wait_for()
    waiting = served.until("put off", "SCHEDULED")
    assert waiting.state is not None
    assert waiting.state.state_details.scheduled_time is not None
    assert waiting.state.state_details.scheduled_time.astimezone().date() == day
    assert waiting.parameters["request"] == {"name": "later", "store": str(served.store), "settings": "demo"}
    served.client.delete_flow_run(waiting.id)


@pytest.mark.parametrize(
    ("deployment", "when"), [("nightly", "At 02:00 AM"), ("weekly", "At 04:00 AM, only on Sunday")]
)
def test_a_schedule_is_shown_switched_off(page: Page, deployment: str, when: str) -> None:
    open_deployment(page, deployment)
    expect(page.get_by_role("switch", name=f"toggle {when}")).not_to_be_checked()
