"""What a container must give the sandbox: the level that a user without rights finds under a container's denials.

The denials are made here as containers make them; docs/operations.md and docker-compose.yml rest on what is found.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sandbox_runs import NEEDS_LEVEL_A

ROOT = Path(__file__).parents[2]
PYTHON = "/usr/bin/python3"  # the machine's own: another user may not be let into this environment's
SHOW = "from srpo_core.sandbox.isolation import probe; found = probe(); print(found.level, found.reason)"
# As the image is started: a user whom nobody knows, without capabilities, and without ways to gain any.
USER = ["setpriv", "--reuid=10001", "--regid=10001", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
READ_ONLY = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'
NO_NAMESPACES = ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--cap-drop", "ALL"]

pytestmark = [
    NEEDS_LEVEL_A,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a container's denials"),
]


@pytest.fixture(scope="module")
def source() -> Iterator[str]:
    """The package where everybody may read it."""
    newer = ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    if not Path(PYTHON).exists() or subprocess.run([PYTHON, *newer], check=False).returncode:
        pytest.skip("NOT TESTED, the sandbox in containers: the machine's own Python is older than 3.11")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o755)
        shutil.copytree(ROOT / "srpo_core", Path(place) / "srpo_core", ignore=shutil.ignore_patterns("__pycache__"))
        yield place


def found(source: str, *container: str) -> tuple[str, str]:
    """The level and its reason, inside what `container` starts."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*container, PYTHON, "-c", SHOW]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    level, _, reason = done.stdout.strip().partition(" ")
    return level, reason


def test_a_user_without_rights_has_level_a_where_nothing_is_denied(source: str) -> None:
    """As `worker-rollout` of docker-compose.yml is started: unconfined, system paths too."""
    assert found(source, *USER) == ("A", "nothing got out")


def test_system_paths_that_are_read_only_leave_level_b(source: str) -> None:
    """As with `seccomp=unconfined` alone: bubblewrap cannot forbid further namespaces."""
    level, reason = found(source, "unshare", "--mount", "sh", "-c", READ_ONLY, "sh", *USER)
    assert level == "B"
    assert "max_user_namespaces" in reason


def test_without_user_namespaces_there_is_level_b(source: str) -> None:
    """As with Docker's own seccomp filter, or that of a Kubernetes node."""
    level, reason = found(source, *NO_NAMESPACES, "--uid", "10001", "--gid", "10001")
    assert level == "B"
    assert "namespace" in reason
