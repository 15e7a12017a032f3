"""One real Prefect server and undisturbed runs for all tests of the pipeline."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pipeline_process import BRIEF, HERE, TINY, Pipeline, UndisturbedRun

from flows.runs import Run, open_run


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    """The command against a server that is started once for all tests, as PREFECT_API_URL names it."""
    home = tmp_path_factory.mktemp("prefect")
    environment = os.environ | {"PREFECT_HOME": str(home), "OMP_NUM_THREADS": "1"}
    environment.pop("PREFECT_API_URL", None)
    server = subprocess.Popen(
        [sys.executable, str(HERE / "serve.py")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), "the Prefect server did not start"
    yield Pipeline(environment | {"PREFECT_API_URL": url})
    server.communicate()  # closes its input, at which it ends


@pytest.fixture(scope="session")
def undisturbed(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> UndisturbedRun:
    """One undisturbed run, for all tests that read one or compare with one. Leave it as it is."""
    store = tmp_path_factory.mktemp("undisturbed")
    done = pipeline.srpo("run", TINY, "--store", store)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return UndisturbedRun(store, "tiny", done.stdout)


@pytest.fixture(scope="session")
def inline(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run `brief` that one process trains without disturbance. Leave it as it is."""
    store = tmp_path_factory.mktemp("inline")
    done = pipeline.srpo("run", BRIEF, "--run-id", "brief", "--store", store)
    assert done.returncode == 0, done.stderr
    return open_run(store, "brief")
