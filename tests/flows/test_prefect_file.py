"""prefect.yaml says what is there: flows, their parameters, pools, schedules that begin paused."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.flows import load_flow_from_entrypoint
from pydantic import ValidationError

from flows.deploy import automations
from flows.execution import Mode, Stage
from flows.request import RunRequest, requested_run
from flows.runs import WrongUseError
from flows.srpo import srpo

ROOT = Path(__file__).parents[2]
FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS = [pytest.param(each, id=each["name"]) for each in FILE["deployments"]]
STAGES = {"prepare", "rollout", "update", "resample", "evaluate", "transition"}


def test_prefect_reads_the_file_and_fetches_no_code() -> None:
    read = PrefectYamlModel.model_validate(FILE)
    assert [each.name for each in read.deployments] == [each["name"] for each in FILE["deployments"]]
    assert read.pull == []


@pytest.mark.parametrize("deployment", DEPLOYMENTS)
def test_every_deployment_has_a_flow_that_takes_its_parameters_and_a_pool_with_heartbeats(
    deployment: dict[str, Any],
) -> None:
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    assert set(deployment.get("parameters", {})) <= set(flow.parameters.properties)
    pool = deployment["work_pool"]
    assert pool["name"] in {each["name"] for each in FILE["pools"]}
    assert pool["job_variables"]["command"] == "python -m flows.stage_process"
    assert pool["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == "30"
    assert "srpo" in deployment["tags"]  # by which the automations know our flow runs
    if deployment["name"] in STAGES | {"srpo"}:
        assert flow.name == deployment["name"]  # a run asks for FLOW/FLOW


def test_every_flow_has_a_deployment() -> None:
    flows = {
        f"flows.{path.stem}.{name}"
        for path in (ROOT / "flows").glob("*.py")
        for name in re.findall(r"^@flow\(.*\)\ndef (\w+)", path.read_text(), re.MULTILINE)
    }
    assert len(flows) >= len(STAGES)
    assert {each["entrypoint"] for each in FILE["deployments"]} == flows


def test_every_stage_has_a_deployment_and_orchestrators_share_no_pool_with_a_limit() -> None:
    pools = {each["name"]: each for each in FILE["pools"]}
    used = {each["name"]: each["work_pool"]["name"] for each in FILE["deployments"]}
    assert set(used) >= STAGES
    assert pools[used["srpo"]]["concurrency_limit"] is None  # else a run could wait for its own stage for ever
    assert used["rollout"] != used["update"]
    assert pools[used["rollout"]]["concurrency_limit"] == pools[used["update"]]["concurrency_limit"] == 1


def test_schedules_begin_paused() -> None:
    schedules = [each for deployment in FILE["deployments"] for each in deployment.get("schedules", [])]
    assert len(schedules) == 2
    assert not any(each["active"] for each in schedules)


def test_deployed_runs_have_their_stages_deployed_in_the_store_that_was_named() -> None:
    (deployment,) = [each for each in FILE["deployments"] if each["name"] == "srpo"]
    assert deployment["parameters"] == {"mode": "deployments", "request": {"store": "{{ $SRPO_STORE }}"}}
    assert set(deployment["parameters"]["request"]) <= set(RunRequest.model_fields)
    assert deployment["parameters"]["mode"] in Mode.__args__


def test_the_form_has_bounds_and_every_field_is_explained() -> None:
    form = srpo.parameters.definitions["RunRequest"]
    assert form["properties"]["name"]["pattern"]
    assert all(field["description"] for field in form["properties"].values())
    assert srpo.parameters.properties["mode"]["description"]
    by_name, by_path, as_begun = form["properties"]["settings"]["anyOf"]
    assert by_name["enum"] == sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))
    assert (by_path["pattern"], as_begun["type"]) == ("^/", "null")


@pytest.mark.parametrize(
    "wrong",
    [{"name": "../up"}, {"store": "relative"}, {"setings": "demo"}, {"changes": ["a=1"] * 101}, {"changes": ["seed"]}],
)
def test_a_form_that_is_filled_in_wrongly_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        RunRequest.model_validate({"name": "r1", "store": "/runs", **wrong})


def test_settings_that_are_not_there_are_answered_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(WrongUseError, match="demo"):
        requested_run(RunRequest(name="r1", store=str(tmp_path), settings="nope"), again=False)


def test_a_retried_request_goes_on_with_the_settings_that_the_run_began_with(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("seed: 1\n")
    request = RunRequest(name="r1", store=str(tmp_path), settings=str(file))
    requested_run(request, again=False)
    file.write_text("seed: 2\n")
    assert requested_run(request, again=True).settings.seed == 1
    with pytest.raises(WrongUseError, match="seed"):
        requested_run(request, again=False)


def test_a_stage_can_be_asked_for_from_anywhere_by_its_parameters(tmp_path: Path) -> None:
    run = requested_run(RunRequest(name="r1", store=str(tmp_path), changes=["problems.train=2"]), again=False)
    for name in sorted(STAGES):
        flow = load_flow_from_entrypoint(f"flows.{name}.{name}")
        place = {each: 1 for each in flow.parameters.properties if each not in {"store", "run"}}
        stage = Stage(flow, run, place, lambda: False)
        assert set(stage.parameters) == set(flow.parameters.properties)
        assert isinstance(flow.flow_run_name, str)
        assert flow.flow_run_name.format(**stage.parameters).startswith("r1 · ")


def test_the_automations_crash_what_gives_no_sign_of_life() -> None:
    for automation in automations():
        assert automation.trigger.posture.value == "Proactive"
        assert automation.trigger.within.total_seconds() > 2 * 30  # more than two heartbeats
