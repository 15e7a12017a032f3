"""prefect.yaml, and the part of it that is ours: the work pools, which `prefect deploy` does not make."""

from pathlib import Path
from typing import Any

import yaml

from flows.runs import RunError

PREFECT_FILE = Path(__file__).parents[1] / "prefect.yaml"


def read_pools(file: Path) -> list[dict[str, Any]]:
    """The work pools that `file` asks for: name, type, concurrency_limit. Raises RunError when it cannot be used."""
    try:
        pools: list[dict[str, Any]] = yaml.safe_load(file.read_text(encoding="utf-8"))["pools"]
    except OSError as error:
        raise RunError(f"{file}: cannot be read: {error.strerror}; it comes with the source of srpo") from error
    except (yaml.YAMLError, TypeError, KeyError) as error:
        raise RunError(f"{file}: is not a prefect.yaml with work pools under `pools`: {error}") from error
    return pools
