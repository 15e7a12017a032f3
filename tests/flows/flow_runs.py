"""Print every flow run that the Prefect server knows: its name and its state; with `tags`, task runs and their tags."""

import sys

from prefect.client.orchestration import get_client

with get_client(sync_client=True) as client:
    if sys.argv[1:] == ["tags"]:
        for task_run in client.read_task_runs(limit=200):
            print(task_run.name, *task_run.tags)
        sys.exit()
    offset = 0
    while page := client.read_flow_runs(limit=200, offset=offset):
        for flow_run in page:
            print(flow_run.name, flow_run.state.name if flow_run.state else "")
        offset += len(page)
