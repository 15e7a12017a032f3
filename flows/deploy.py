"""What the Prefect server is told: work pools, deployments and automations, as prefect.yaml and this file have them.

Applied twice it changes nothing; what a person changed in the UI since is set back, but for paused schedules and pools.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.prefect_file import read_pools
from flows.runs import RunError

_ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def deploy(file: Path, store: Path) -> Iterator[str]:
    """Apply `file`; deployments that need a store get `store`. Gives a line for each thing that was done.

    Raises RunError when there is no such file or Prefect refuses it.
    """
    pools = read_pools(file)
    with get_client(sync_client=True) as client:
        for pool in pools:
            yield f"work pool {pool['name']} {_make_pool(client, pool)}"
        for automation in automations():
            yield f"automation {automation.name!r} {_make_automation(client, automation)}"
    yield from _deployments(file, store)


def automations() -> list[AutomationCore]:
    """What marks flow runs as crashed that no process works on any more, so that they can be retried."""
    # A heartbeat comes every 30 s (prefect.yaml): three are missing then, or the first one has never come.
    signs = {"heartbeat"}
    dead = _crash("srpo: crash flow runs whose process died", after={"Running", *signs}, expect=signs, seconds=90)
    # A worker that dies between taking a flow run and starting its process leaves it as pending.
    stuck = _crash("srpo: crash flow runs that do not start", after={"Pending"}, expect={"Running"}, seconds=600)
    return [dead, stuck]


def _crash(name: str, *, after: set[str], expect: set[str], seconds: int) -> AutomationCore:
    told = f"its process gave no sign of life for {seconds} s; Retry goes on from what is committed"
    return AutomationCore(
        name=name,
        trigger=EventTrigger(
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.srpo"}
            ),
            for_each={"prefect.resource.id"},
            after={f"prefect.flow-run.{each}" for each in after},
            expect={f"prefect.flow-run.{each}" for each in (*expect, *_ENDED)},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=seconds),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=told)],
    )


def _make_pool(client: SyncPrefectClient, pool: dict[str, Any]) -> str:
    try:
        there = client.read_work_pool(pool["name"])
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(**pool))
        return "made"
    # A pool of another type was made by hand, from a template of configs/kubernetes: it is left what it is.
    client.update_work_pool(pool["name"], WorkPoolUpdate(concurrency_limit=pool["concurrency_limit"]))
    return f"is there, of type {there.type}"


def _make_automation(client: SyncPrefectClient, automation: AutomationCore) -> str:
    for there in client.read_automations_by_name(automation.name):
        if _content(there) == _content(automation):
            return "is there"  # untouched: one that is written again forgets what it waits for
        client.update_automation(there.id, automation)
        return "changed"
    client.create_automation(automation)
    return "made"


def _content(automation: AutomationCore) -> dict[str, Any]:
    return automation.model_dump(include=set(AutomationCore.model_fields))


def _deployments(file: Path, store: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    environment = os.environ | {"SRPO_STORE": str(store.absolute())}
    done = subprocess.run(command, env=environment, cwd=file.parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RunError(f"`prefect deploy --all` refused {file}:\n{done.stdout}{done.stderr}")
    for deployment in yaml.safe_load(file.read_text(encoding="utf-8"))["deployments"]:
        yield f"deployment {deployment['name']} on pool {deployment['work_pool']['name']}"
