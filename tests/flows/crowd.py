"""Run as a script in a fresh process: many write to a Prefect server at the same moment, and none tries twice.

Prints what the server answered, by status.
"""

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from flows.prefect_server import prefect_api, quiet_prefect


def main() -> None:
    """Write from several threads, each with a connection of its own."""
    quiet_prefect()
    with prefect_api():  # the one that PREFECT_API_URL names
        import httpx
        from prefect.settings import PREFECT_API_URL

        url = str(PREFECT_API_URL.value())

        def write(thread: int) -> list[int]:
            with httpx.Client(base_url=url, timeout=60) as client:
                flow = client.post("/flows/", json={"name": f"crowd-{thread}"}).json()["id"]
                answers = []
                for number in range(int(sys.argv[1])):
                    made = client.post("/flow_runs/", json={"flow_id": flow, "name": f"{number}"})
                    answers.append(made.status_code)
                    if made.status_code == 201:
                        state = {"state": {"type": "RUNNING"}}
                        answers.append(client.post(f"/flow_runs/{made.json()['id']}/set_state", json=state).status_code)
                return answers

        with ThreadPoolExecutor(8) as threads:
            print(json.dumps(Counter(status for answers in threads.map(write, range(8)) for status in answers)))


if __name__ == "__main__":
    main()
