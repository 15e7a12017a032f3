"""Tables in the Prefect UI, one series per run and kind."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import create_table_artifact

from flows.runs import Run


def publish_table(
    run: Run, kind: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], description: str
) -> None:
    """Show `columns` of `rows` as the newest artifact of the run's series `kind`."""
    key = re.sub(r"[^a-z0-9]+", "-", f"{run.name}-{kind}".lower())
    table = [{column: row[column] for column in columns} for row in rows]
    create_table_artifact(table, key=key, description=description)
