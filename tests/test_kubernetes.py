"""The job templates of configs/kubernetes: what Prefect, its Kubernetes worker and Kubernetes itself ask of them."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import prefect
import pytest
import yaml
from jsonschema.validators import Draft202012Validator
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.server.schemas.actions import WorkPoolCreate as ServerWorkPoolCreate
from prefect.utilities.templating import apply_values, find_placeholders
from pydantic import ValidationError

ROOT = Path(__file__).parents[1]
POOLS = [pool["name"] for pool in yaml.safe_load((ROOT / "prefect.yaml").read_text())["pools"]]
FILES = {path.stem: path for path in (ROOT / "configs/kubernetes").glob("*.json")}
TEMPLATES = {name: json.loads(path.read_text()) for name, path in FILES.items()}
KUBERNETES = "1.34"
# What the worker fills in, whatever a template says.
FILLED = {"name": "loud-owl", "command": ["prefect", "flow-run", "execute"], "env": {}, "labels": {}}


def defaults(template: dict[str, Any]) -> dict[str, Any]:
    given = {name: each["default"] for name, each in template["variables"]["properties"].items() if "default" in each}
    return given | FILLED


def job(name: str, **variables: Any) -> dict[str, Any]:
    """The job of a pool, as the worker makes it with these variables."""
    template = TEMPLATES[name]
    manifest = apply_values(
        template["job_configuration"]["job_manifest"], defaults(template) | variables, remove_notset=True
    )
    assert isinstance(manifest, dict)
    return manifest


def official() -> dict[str, Any]:
    """The template that comes with Prefect for its Kubernetes worker."""
    views = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
    found = json.loads(views.read_text())["prefect-kubernetes"]["kubernetes"]["default_base_job_configuration"]
    assert isinstance(found, dict)
    return found


def test_every_pool_has_a_template_and_no_other() -> None:
    assert sorted(FILES) == sorted(POOLS)


@pytest.mark.parametrize("name", POOLS)
def test_prefect_takes_the_template(name: str) -> None:
    WorkPoolCreate(name=name, type="kubernetes", base_job_template=TEMPLATES[name])
    ServerWorkPoolCreate(name=name, type="kubernetes", base_job_template=TEMPLATES[name])
    Draft202012Validator.check_schema(TEMPLATES[name]["variables"])
    broken = json.loads(FILES[name].read_text().replace("{{ store_claim }}", "{{ store_claims }}"))
    with pytest.raises(ValidationError, match="store_claims"):
        ServerWorkPoolCreate(name=name, type="kubernetes", base_job_template=broken)


@pytest.mark.parametrize("name", POOLS)
def test_every_variable_is_used_explained_and_may_have_its_default(name: str) -> None:
    configuration, variables = TEMPLATES[name]["job_configuration"], TEMPLATES[name]["variables"]
    used = {each.name for each in find_placeholders(configuration)}
    assert used == set(variables["properties"])
    assert all(each["description"] and each["title"] for each in variables["properties"].values())
    Draft202012Validator(variables).validate(defaults(TEMPLATES[name]) | {"command": "prefect flow-run execute"})


@pytest.mark.parametrize("name", POOLS)
def test_the_worker_finds_all_that_it_asks_a_template_for(name: str) -> None:
    assert set(TEMPLATES[name]["job_configuration"]) == set(official()["job_configuration"])
    # Variables by which deployments and people know a Kubernetes pool keep their names and types.
    for variable, wanted in official()["variables"]["properties"].items():
        if given := TEMPLATES[name]["variables"]["properties"].get(variable):
            assert given.get("type") == wanted.get("type"), variable


@pytest.mark.parametrize("name", POOLS)
def test_kubernetes_takes_the_job(name: str) -> None:
    made = job(name)
    made["metadata"] = {"name": "loud-owl", "labels": {}}
    kubernetes_validate.validate(made, KUBERNETES, strict=True)
    made["spec"]["template"]["spec"]["containers"][0]["securitycontext"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", POOLS)
def test_a_pod_has_the_store_no_rights_and_the_gpus_of_its_pool(name: str) -> None:
    pod = job(name, gpus=2)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts.values())
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    assert claims[mounts["/store"]] == {"claimName": "srpo-store"}
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == (2 if name.endswith("-gpu") else None)


@pytest.mark.parametrize("name", POOLS)
def test_a_failed_pod_is_not_started_again_by_kubernetes(name: str) -> None:
    """Prefect knows how to try again: a second pod beside its count would be a second process on one stage."""
    assert job(name)["spec"]["backoffLimit"] == 0
    assert job(name)["spec"]["template"]["spec"]["restartPolicy"] == "Never"


def test_the_image_is_that_of_the_compose_file_and_its_user_that_of_the_dockerfile() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for name in POOLS:
        pod = job(name)["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == f"srpo:{version}"
        assert (pod["securityContext"]["runAsUser"], pod["securityContext"]["fsGroup"]) == (int(user[1]), int(user[2]))


def test_the_templates_differ_in_gpus_and_shared_memory_alone() -> None:
    """So that a change of one is made in all."""

    def common(name: str) -> dict[str, Any]:
        made = job(name, cpu_request="1", memory_request="1Gi", memory_limit="1Gi")
        (container,) = made["spec"]["template"]["spec"]["containers"]
        container["resources"]["limits"].pop("nvidia.com/gpu", None)
        container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] != "shm"]
        volumes = made["spec"]["template"]["spec"]["volumes"]
        made["spec"]["template"]["spec"]["volumes"] = [each for each in volumes if each["name"] != "shm"]
        return made

    assert common("cpu") == common("rollout-gpu") == common("train-gpu")
