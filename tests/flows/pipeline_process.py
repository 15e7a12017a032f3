"""The `srpo` command in processes of its own, and what a run that nothing interrupted is."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TINY = HERE / "tiny.yaml"
BRIEF = HERE / "brief.yaml"


@dataclass(frozen=True)
class Pipeline:
    """Runs the command, with the environment that leads it to the session's Prefect server."""

    environment: dict[str, str]

    def srpo(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """`srpo ARGUMENTS`, to its end."""
        return self.python("-m", "flows", *arguments)

    def python(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A Python process with these arguments, to its end."""
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            env=self.environment,
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )


@dataclass(frozen=True)
class UndisturbedRun:
    """A run of tests/flows/tiny.yaml that nothing interrupted."""

    store: Path
    name: str
    output: str
