"""The stack of docker-compose.yml for real: PostgreSQL, Redis, S3, migration, the API and the services apart, workers.

What Docker itself does (images, networks, volumes, users, limits) is not tested.
"""

import base64
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from compose_file import SECRETS
from compose_processes import Stack, composed, machines_are_apart, missing_programs
from pipeline_process import BRIEF, HERE, Pipeline
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Running
from served_runs import Served, eventually, processes
from test_resume import assert_same_run, nameless

from flows.deploy import automations
from flows.runs import Run, open_run

pytestmark = pytest.mark.deployed
SIGN_SECONDS = 60.0
WORKERS = ("worker-cpu", "worker-rollout", "worker-train")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if missing := missing_programs():
        pytest.skip(f"NOT TESTED, docker-compose.yml as processes: apt-get install {' '.join(missing)}")
    with composed(tmp_path_factory.mktemp("composed")) as stack:
        for name in ("services", *WORKERS):
            stack.start(name)
        yield stack


@contextmanager
def client_of(stack: Stack) -> Iterator[SyncPrefectClient]:
    """A client that knows the password."""
    given = {PREFECT_API_URL: f"{stack.url}/api", PREFECT_API_AUTH_STRING: SECRETS["PREFECT_AUTH_STRING"]}
    with temporary_settings(given), get_client(sync_client=True) as client:
        yield client


def test_a_run_on_the_composed_stack_ends_like_an_inline_one(
    stack: Stack, inline: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = stack.environment("worker-cpu")
    begin = ("run", BRIEF, "--run-id", "brief", "--store", stack.store, "--mode", "deployments")
    deployed = Pipeline(environment).srpo(*begin, "--set", "history.url=s3://history/runs")
    assert deployed.returncode == 0, deployed.stderr + "".join(map(stack.log, WORKERS))
    for name, value in environment.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)
    assert_same_run(open_run(stack.store, "brief"), inline)
    assert not (stack.store / "brief" / "data").exists()  # it is in the bucket
    with client_of(stack) as client:
        runs = {each.name: each for each in client.read_flow_runs()}
    assert len(runs) > len(WORKERS)
    assert {each.state.type.value for each in runs.values() if each.state} == {"COMPLETED"}
    assert {each.work_pool_name for each in runs.values()} == {"cpu", "rollout-gpu", "train-gpu"}
    secrets = [value for name, value in SECRETS.items() if name != "POSTGRES_PASSWORD"]
    told = "".join(path.read_text(errors="replace") for path in stack.store.parent.glob("*.log"))
    assert not [line for line in told.splitlines() if "| ERROR" in line]  # events that are dropped, for one
    assert not [secret for secret in (*secrets, SECRETS["POSTGRES_PASSWORD"]) if secret in told]


def test_a_machine_that_dies_with_a_stage_is_noticed_and_retry_goes_on_in_the_morning(
    stack: Stack, inline: Run
) -> None:
    if not machines_are_apart():
        pytest.skip("NOT TESTED, a machine that dies: this one does not let a process have its own (unshare --pid)")
    with client_of(stack) as client:
        served = Served(Pipeline(stack.environment("worker-cpu")), stack.store, stack.processes["worker-cpu"], client)
        served.start("night", BRIEF)
        stage = served.until("night · stage 1 · epoch 0 · update", "RUNNING")
        stack.power_off("worker-train")  # its worker too: nobody who was there can tell
        served.until(stage.name, "CRASHED")
        served.until("night", "FAILED")
        assert not processes(f"PREFECT__FLOW_RUN_ID={stage.id}")
        served.retry(stage)
        assert served.until("night", "COMPLETED").run_count == 2
        assert served.until(stage.name, "COMPLETED").run_count == 2
    assert nameless(open_run(stack.store, "night")) == nameless(inline)


def test_the_api_answers_nobody_without_the_password_but_says_that_it_lives(stack: Stack) -> None:
    def status(path: str, password: str | None) -> int:
        headers = {"Content-Type": "application/json"}
        if password is not None:
            headers["Authorization"] = f"Basic {base64.b64encode(password.encode()).decode()}"
        request = urllib.request.Request(f"{stack.url}/api{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    assert status("/health", None) == 200
    assert status("/admin/version", None) == status("/admin/version", "admin:wrong") == 401
    assert status("/admin/version", SECRETS["PREFECT_AUTH_STRING"]) == 200
    with urllib.request.urlopen(f"{stack.url}/ui-settings", timeout=60) as answer:
        assert json.load(answer)["api_url"] == f"{stack.url}/api"


def test_the_services_apart_crash_what_gives_no_sign_of_life(stack: Stack) -> None:
    """An event goes from the API by Redis to the services, and the automation's action back: two processes."""
    with client_of(stack) as client:
        deployment = client.read_deployment_by_name("evaluate/evaluate")
        nothing = {"store": "/nowhere", "run": "dead", "stage": 0, "after": 0, "version": 0}
        made = client.create_flow_run_from_deployment(deployment.id, parameters=nothing, name="dead", state=Running())
        about = {"prefect.resource.id": f"prefect.flow-run.{made.id}"}
        tag = {"prefect.resource.id": "prefect.tag.srpo", "prefect.resource.role": "tag"}
        dead, _ = automations()
        quick = {"within": timedelta(seconds=10), "match": ResourceSpecification(about)}
        trigger = dead.trigger.model_copy(update=quick)
        client.create_automation(dead.model_copy(update={"name": "quick", "trigger": trigger}))
        last_sign = -math.inf

        def crashed() -> FlowRun | None:
            nonlocal last_sign
            if time.monotonic() - last_sign > SIGN_SECONDS:  # the services learn of the automation when they do
                emit_event("prefect.flow-run.heartbeat", resource=about, related=[tag])
                last_sign = time.monotonic()
            run = client.read_flow_run(made.id)
            return run if run.state is not None and run.state.is_crashed() else None

        state = eventually(crashed).state
    assert state is not None
    assert "no sign of life" in (state.message or "")


def test_workers_are_well_as_the_image_asks_them(stack: Stack) -> None:
    for name in WORKERS:
        stack.await_health(name)


def test_deploying_wrote_nothing_beside_the_code(stack: Stack) -> None:
    """The image's file system is read-only."""
    assert stack.processes["deploy"].poll() == 0
    assert not [path for path in (HERE.parents[1] / ".prefect", HERE.parents[1] / ".prefectignore") if path.exists()]
