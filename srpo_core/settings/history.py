"""Where the history is kept."""

from typing import Annotated

from pydantic import Field

from srpo_core.settings.section import Section


class HistorySettings(Section):
    """Where the history is kept."""

    url: Annotated[str, Field(pattern=r"^(file:///.*|s3://[a-z0-9.-]+(/[A-Za-z0-9._=-]+)*/?)$")] | None = None
    """Place of the history's files, `file:///…` or `s3://bucket/prefix`, in a folder of the run's name; without one,
    the run's directory. Endpoint, region and credentials come from the environment (AWS_…), never from here."""
