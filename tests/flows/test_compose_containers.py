"""docker-compose.yml in containers, where Docker has its images: what they do is what processes do without them.

docker compose build && docker compose pull --ignore-buildable && make test-deployed
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from compose_file import FILE, SECRETS, WITHOUT_GPU, compose, services
from pipeline_process import BRIEF
from served_runs import eventually, free_port
from test_resume import nameless

from flows.runs import Run, open_run

pytestmark = pytest.mark.deployed
DEPLOYED = ("--mode", "deployments", "--store", "/store")
WORKERS = ("worker-cpu", "worker-rollout", "worker-train")

Compose = Callable[..., str]


def missing_images() -> list[str]:
    """What `docker` does not have of the file's images; all of them where there is no Docker."""
    begun = [service for service in services(FILE, WITHOUT_GPU).values() if not service.get("profiles")]
    images = sorted({service["image"] for service in begun})
    docker = shutil.which("docker")
    if docker is None:
        return images
    look = [docker, "image", "inspect"]
    return [image for image in images if subprocess.run([*look, image], capture_output=True, check=False).returncode]


@pytest.fixture(scope="module")
def stack() -> Iterator[Compose]:
    """The whole file, without GPUs and vLLM; gives `docker compose ARGUMENTS`, which tells its output."""
    if missing := missing_images():
        pytest.skip(f"NOT TESTED, docker-compose.yml in containers: Docker has not {', '.join(missing)}")
    files = ("--file", str(FILE), "--file", str(WITHOUT_GPU), "--project-name", f"srpo-{uuid4().hex[:8]}")
    docker = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    variables = SECRETS | docker | {"SRPO_UI_PORT": str(free_port())}

    def run(*arguments: str) -> str:
        done = compose(*files, *arguments, variables=variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        run("up", "--detach", "--no-build", "--pull", "never")
        yield run
    finally:
        run("down", "--volumes")


def test_a_run_in_containers_that_are_killed_at_work_ends_like_an_inline_one_without(
    stack: Compose, inline: Run, tmp_path: Path
) -> None:
    shell = ("exec", "-T", "worker-cpu")
    stack("cp", str(BRIEF), "worker-cpu:/store/brief.yaml")
    stack("exec", "--detach", "worker-cpu", "srpo", "run", "/store/brief.yaml", *DEPLOYED)
    shards = ("find", "/store", "-path", "*/brief/data/*.parquet", "!", "-name", "empty.parquet")
    eventually(lambda: stack(*shell, *shards))
    stack("kill", *WORKERS)
    stack("start", *WORKERS)
    stack(*shell, "srpo", "resume", "brief", *DEPLOYED)
    stack("cp", "worker-cpu:/store/brief", str(tmp_path / "brief"))
    assert nameless(open_run(tmp_path, "brief"), "machines") == nameless(inline, "machines")


def test_programs_that_a_model_wrote_are_held_by_bubblewrap_in_the_container_that_grades(stack: Compose) -> None:
    assert "level A" in stack("exec", "-T", "worker-rollout", "srpo", "doctor", "--json", "--store", "/store")
