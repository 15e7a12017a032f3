"""The automation that the documents give tells of a run that failed, and of nothing else."""

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.webhook import Webhook
from served_runs import PATIENCE_SECONDS, Served, serve

pytestmark = pytest.mark.deployed
FILE = Path(__file__).parents[2] / "docs/automations/failed-run.yaml"
NAME = "srpo: tell of failed runs"


@pytest.fixture
def received() -> Iterator[tuple[str, "queue.Queue[Any]"]]:
    """The address of a webhook, and what it was told."""
    told: queue.Queue[Any] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", told
        server.shutdown()


def prefect(served: Served, *arguments: str) -> None:
    command = [sys.executable, "-m", "prefect", "--no-prompt", "automation", *arguments]
    subprocess.run(command, env=served.pipeline.environment, check=True, capture_output=True)


def test_a_failed_run_is_told_once_by_the_automation_of_the_documents(
    tmp_path: Path, received: tuple[str, "queue.Queue[Any]"]
) -> None:
    address, told = received
    with serve(tmp_path) as served:
        block = Webhook(url=address).save("srpo-failures")
        (mine := tmp_path / "mine.yaml").write_text(
            FILE.read_text().replace("00000000-0000-0000-0000-000000000000", str(block))
        )
        prefect(served, "create", "--from-file", str(mine))
        (automation,) = served.client.read_automations_by_name(NAME)
        assert not automation.enabled
        prefect(served, "resume", NAME)
        (automation,) = served.client.read_automations_by_name(NAME)
        assert automation.enabled
        served.start("lost", Path("/no-such-settings.yaml"))
        message = json.loads(told.get(timeout=PATIENCE_SECONDS))
    assert message["run"] == "lost"
    assert message["state"] == "Failed"
    assert "/no-such-settings.yaml" in message["message"]
    assert told.empty()
