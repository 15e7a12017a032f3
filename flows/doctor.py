"""What this machine can do: one finding per thing that a run may need, and the command that provides it."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from flows.prefect_server import ServerError, check_api
from srpo_core.rollout.vllm_process import VllmStartError, vllm_python, vllm_versions
from srpo_core.sandbox.isolation import probe
from srpo_core.settings.engine import EngineSettings
from storage.files import StoreError, temporary_directory

FREE_BYTES = 1 << 30  # a run of configs/demo.yaml writes about 0.1 GB; below this a disk is as good as full


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `needed`: the default configuration cannot run without it."""

    name: str
    found: bool
    needed: bool
    detail: str
    remedy: str = ""


def examine(store: Path) -> Iterator[Finding]:
    """Every finding about this machine and the directory that runs are kept in."""
    yield Finding("Python", True, True, f"{platform.python_version()}, {os.cpu_count()} cores, {platform.platform()}")
    yield _packages()
    yield _torch()
    yield _sandbox()
    yield _prefect()
    yield _vllm()
    yield _disk(store)


def _packages() -> Finding:
    """Whether everything that the package declares is installed, in its range."""
    wrong = []
    needed = [Requirement(text) for text in requires("srpo") or ()]
    for requirement in needed:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} {installed} is not {requirement.specifier}")
    detail = "; ".join(wrong) or ", ".join(f"{name} {version(name)}" for name in ("transformers", "prefect", "duckdb"))
    return Finding("packages", not wrong, True, detail, "make install" if wrong else "")


def _torch() -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", False, True, str(error), "make install")
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding("torch", True, True, f"{torch.__version__}; GPUs: {', '.join(devices) or 'none, runs use the CPU'}")


def _sandbox() -> Finding:
    """Not needed by the default configuration: the lab's programs are expressions that are never executed."""
    isolation = probe()
    absent = shutil.which("bwrap") is None
    remedy = "apt-get install bubblewrap" if absent else "allow it user namespaces: docs/operations.md, Containers"
    told = f"level {isolation.level}: {isolation.reason}"
    return Finding("sandbox", isolation.level != "C", False, told, "" if isolation.level == "A" else remedy)


def _prefect() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding("Prefect API", True, True, "PREFECT_API_URL is not set: each run starts a server of its own")
    try:
        check_api(url)
    except ServerError as error:
        return Finding("Prefect API", False, True, str(error), "prefect server start")
    return Finding("Prefect API", True, True, f"{url} answers")


def _vllm() -> Finding:
    settings = EngineSettings(kind="vllm")
    try:
        versions = vllm_versions(settings)
    except VllmStartError as error:
        return Finding("vLLM", False, False, f"{error}; transformers samples in process", "make vllm")
    return Finding("vLLM", True, False, f"{versions['vllm']}, torch {versions['vllm_torch']}, {vllm_python(settings)}")


def _disk(store: Path) -> Finding:
    """Whether files can be published there, as the history publishes them, and whether there is room."""
    place = next(path for path in (store, *store.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    detail = f"{store}: {free / 1e9:.1f} GB free"
    if free < FREE_BYTES:
        return Finding("disk", False, True, f"{detail}, less than {FREE_BYTES / 1e9:.1f}", "choose another --store")
    try:
        with temporary_directory(place) as directory:
            (directory / "a").touch()
            os.link(directory / "a", directory / "b")
    except (StoreError, OSError) as error:
        return Finding("disk", False, True, f"{detail}, but {error}", "choose another --store")
    return Finding("disk", True, True, f"{detail}, files can be published")
