"""What every command shares: its options, and how errors are told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.prefect_server import ServerError
from flows.runs import RunError, WrongUseError
from srpo_core.policy.errors import PolicyError
from srpo_core.problems.templates import TemplateError
from srpo_core.rewards.verifiers import UnsupportedProblemError
from srpo_core.rollout.errors import EngineError
from srpo_core.sandbox.errors import SandboxUnavailable
from srpo_core.settings_file import SettingsError
from storage.files import StoreError

FAILED, WRONG_USE = 1, 2
_FAILURES = (
    RunError,
    StoreError,
    PolicyError,
    TemplateError,
    EngineError,
    ServerError,
    SandboxUnavailable,
    UnsupportedProblemError,
)

StoreOption = Annotated[Path, typer.Option("--store", help="Directory that holds the runs.", envvar="SRPO_STORE")]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run in the store.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one setting, such as update.learning_rate=1e-4. Repeatable."),
]
Mode = Literal["inline", "deployments"]  # as flows/execution.py has it, which takes seconds to import
ModeOption = Annotated[
    Mode,
    typer.Option(
        "--mode",
        help="Who trains: this process, or the workers of the deployments that PREFECT_API_URL knows.",
        envvar="SRPO_MODE",
    ),
]
STORE = Path("runs")


@contextmanager
def told_errors() -> Iterator[None]:
    """Turn what can go wrong into a message and an exit status; an interrupted run can be resumed."""
    try:
        yield
    except (SettingsError, WrongUseError) as error:
        fail(str(error), WRONG_USE)
    except _FAILURES as error:
        fail(str(error), FAILED)
    except KeyboardInterrupt:
        fail("interrupted; what is committed stands, and `srpo resume` goes on from there", FAILED)


def fail(message: str, status: int) -> None:
    """Say what went wrong, and end with that exit status."""
    typer.echo(f"srpo: {message}", err=True)
    raise typer.Exit(status)
